FROM continuumio/miniconda3:latest
SHELL ["/bin/bash", "--login", "-c"]
COPY environment.yml .
RUN conda env create -f environment.yml && conda clean -afy
RUN echo "conda activate science" >> ~/.bashrc
SHELL ["conda", "run", "--no-capture-output", "-n", "science", "/bin/bash", "-c"]
RUN python -c "import numpy; print(numpy.__version__)" && \
    jupyter nbextension enable --py widgetsnbextension --sys-prefix
WORKDIR /notebooks
VOLUME /notebooks
EXPOSE 8888
CMD jupyter lab --ip=0.0.0.0 --port=8888 --no-browser --allow-root --NotebookApp.token="${TOKEN:-}"
