//! rbuild's own rules.

use super::*;

/// Names of findings for a stage, without what every test stage has.
fn names(text: &str) -> Vec<&'static str> {
    let report = Setup::hints().check(text);
    report.findings.iter().filter(|one| one.rule.level != Level::Warning).map(|one| one.rule.name).collect()
}

/// The rule fires for each bad stage body once, and for no good one at all.
fn table(rule: &str, bad: &[&str], good: &[&str]) {
    for (body, expected) in bad.iter().map(|body| (body, 1)).chain(good.iter().map(|body| (body, 0))) {
        let text = format!("FROM x:1\n{body}\n");
        let found = names(&text);
        assert_eq!(found.iter().filter(|name| **name == rule).count(), expected, "{rule}: {text}\n{found:?}");
    }
}

#[test]
fn own_rules_are_silent_in_builds() {
    assert!(Setup::new().found("FROM x:latest\nRUN sudo a\n").is_empty());
}

#[test]
fn own_rules_can_be_skipped() {
    assert!(names("# check=skip=SudoInRun\nFROM x:1\nRUN sudo a\n").is_empty());
    assert!(names("FROM x:1\n# check=skip=SudoInRun\nRUN sudo a\n").is_empty());
    assert_eq!(names("FROM x:1\nRUN sudo a\n"), ["SudoInRun"]);
}

#[test]
fn apt_update_and_install_belong_together() {
    table(
        "AptUpdateAlone",
        &[
            "RUN apt-get update\nRUN apt-get install -y a",
            "RUN apt-get update\nRUN apt-get install -y a\nRUN apt-get install -y b",
            "RUN apt-get update\nRUN apt-get -o A::B=c -y install a",
            "RUN sh -c 'apt-get update'\nRUN apt-get install -y a ./b.deb",
            "RUN apt-get update\nUSER b\nCOPY a b\nRUN sudo apt-get install -y a && apt-get update",
            "RUN add-apt-repository p && apt-get update\nRUN apt-get install -y a",
            "RUN apt-get install -y a",
            "RUN apt-get upgrade -y",
            "RUN --mount=type=cache,target=/var/cache/apt apt-get install -y a",
        ],
        &[
            "RUN apt-get update",
            "RUN apt-get update\nRUN apt-get update && apt-get install -y a",
            // What uses the lists in another way, or may.
            "RUN apt-get install --update -y a",
            "RUN apt-get -U install -y a",
            "RUN apt-get update && cat l | xargs apt-get install -y\nRUN apt-get install -y a",
            "RUN apt-get update && apt-get -o A::B=c -y install a\nRUN apt-get install -y a",
            "RUN apt-get update && apt-get install -y ./a.deb\nRUN apt-get install -y a",
            "RUN apt-get update && apt-get reinstall -y a\nRUN apt-get install -y a",
            "RUN apt-get update && apt-get purge -y a",
            "RUN apt-get update && apt-get install -y a $(b 2>/dev/null)\nRUN apt-get install -y a",
            "RUN I='apt-get install -y' && apt-get update && $I a\nRUN apt-get install -y a",
            "RUN i() { apt-get install -y \"$@\"; }; apt-get update; i a\nRUN apt-get install -y a",
            "RUN apt-get update && ./install.sh\nRUN apt-get install -y a",
            "RUN apt-get update && bash install\nRUN apt-get install -y a",
            "RUN apt-get update </dev/null && </dev/null X=1 apt-get --yes install a\nRUN apt-get install -y a",
            "RUN apt-get update && xx-apt-get install -y a",
            "RUN apt-get update && apt-cache policy a\nRUN apt-get install -y a",
            "RUN curl u | bash - && apt-get install -y a",
            "RUN curl u | bash -\nRUN apt-get install -y a",
            "RUN add-apt-repository p\nRUN apt-get install -y a",
            "RUN apt-get update\nRUN ./refresh\nRUN apt-get install -y a",
            "RUN <<E\nset -e\napt-get update\nE\nRUN <<E\napt-get update\napt-get install -y a\nE",
            "RUN --mount=type=bind,from=l,target=/var/lib/apt/lists apt-get install -y a",
            "RUN apt-get install -y /tmp/*.deb",
            "RUN apt-get download a",
            "RUN apt-get update && apt-get install -y a",
            "RUN <<E\nset -e\napt-get update\napt-get install -y a\nE",
            "RUN apt-get install -y ./a.deb",
            "RUN --mount=type=cache,target=/var/lib/apt apt-get update",
            "RUN echo apt-get update",
            "RUN apt-get update && apt-get install -y a\nRUN apt-get install -y b",
        ],
    );
}

#[test]
fn apt_lists_are_removed_or_mounted() {
    table(
        "AptCacheLeft",
        &[
            "RUN apt-get update && apt-get install -y a",
            "RUN apt-get update && apt-get install -y a && apt-get clean",
            "RUN apt-get install --update -y a",
            "RUN sh -c 'apt-get update && apt-get install -y a'",
        ],
        &[
            "RUN apt-get update && apt-get install -y a && rm -rf /var/lib/apt",
            "RUN apt-get update && apt-get install -y a && rm -rf /var/lib/{apt,dpkg}",
            "RUN apt-get update && apt-get install -y a && sh -c \"rm -rf /var/lib/apt/lists/*\"",
            "RUN apt-get update && apt-get install -y a && find /var/lib/apt/lists -delete",
            "RUN apt-get update && apt-get install -y a && apt-get dist-clean",
            "RUN apt-get update && apt-get install -y a && clean-layer.sh",
            "RUN apt-get update && apt-get install -y a && rm -rf /var/lib/apt/lists/*",
            "RUN --mount=type=cache,target=/var/lib/apt/lists apt-get update && apt-get install -y a",
            "RUN --mount=type=tmpfs,target=/var/lib/apt apt-get update && apt-get install -y a",
        ],
    );
    // What is not shipped may be as large as it likes.
    let builder = "FROM x:1 AS a\nRUN apt-get update && apt-get install -y a\nFROM x:1\nCOPY --from=a /b /\n";
    assert!(names(builder).is_empty());
}

#[test]
fn apt_is_not_left_waiting() {
    table(
        "AptAssumeYes",
        &[
            "RUN apt-get update && apt-get install a",
            "RUN apt-get update; apt-get install --no-install-recommends a",
            "RUN apt-get update && apt-get -o A::B=y install a",
            "RUN apt-get install -f",
            "RUN apt-get upgrade",
            "RUN apt-get remove a",
            "RUN echo a | apt-get install -y a | apt-get install b",
            "RUN apt-get install $PACKAGES",
            "RUN apt-get install ./a.deb b",
        ],
        &[
            "RUN apt-get autoremove",
            "RUN apt-get purge",
            "RUN apt-get install /tmp/a.deb ./b.deb && rm /tmp/a.deb",
            "RUN apt-get install $APT_INSTALL_OPTIONS a",
            "RUN echo y | apt-get install a",
            "RUN apt-get -q=2 install a",
            "RUN echo 'APT::Get::Assume-Yes \"true\";' >/etc/apt/apt.conf.d/90y\nRUN apt-get install a",
            "COPY apt.conf /etc/apt/\nRUN apt-get install a",
            "RUN apt-get update && apt-get install -y a",
            "RUN apt-get update && apt-get install -qq a",
            "RUN apt-get update && apt-get -qy install a",
            "RUN apt-get update && apt-get install --assume-yes a",
            "RUN apt-get update && yes | apt-get install a",
            "RUN apt-get clean",
        ],
    );
}

#[test]
fn apk_leaves_no_index() {
    table(
        "ApkIndexLeft",
        &["RUN apk update && apk add a", "RUN apk add -U a", "RUN apk --update add a && rm -rf /tmp/*"],
        &[
            "RUN apk update && apk add a && rm -rf /var/cache/*/*",
            "RUN apk update && apk add a && sh -c 'rm -f /var/cache/apk/*'",
            "RUN apk --no-cache update && apk add --no-cache a",
            "RUN apk add --no-cache=true --update a",
            "RUN apk --update add a && clean",
            "RUN apk add --no-cache a",
            "RUN apk update && apk add a && rm -rf /var/cache/apk/*",
            "RUN apk add a",
        ],
    );
}

#[test]
fn downloads_can_be_kept() {
    table(
        "CacheMountMissing",
        &[
            "RUN npm ci",
            "RUN go build ./...",
            "RUN cargo build --release",
            "RUN dotnet restore\nRUN dotnet publish -c Release",
            "RUN dotnet publish",
            "RUN mvn package",
            "RUN gradle :app:build",
        ],
        &[
            "RUN dotnet publish --no-restore",
            "RUN --mount=type=cache,target=/c dotnet restore\nRUN dotnet build --no-restore",
            "RUN npm install -g a",
            "RUN npm install a@1",
            "RUN git clone u /x && cd /x && npm ci",
            "RUN go install a@latest",
            "RUN mvn -o package",
            "RUN gradle -version",
            "RUN gradle build --offline",
            "SHELL [\"powershell\", \"-Command\"]\nRUN dotnet restore",
            "RUN go build && go clean -cache",
            "RUN npm ci && rm -rf /root/.npm",
            "RUN composer install && composer clear-cache",
            "RUN --mount=type=cache,target=/root/.npm npm ci",
            "RUN npm ci && npm cache clean --force",
            "RUN npm test",
        ],
    );
    assert_eq!(rule("CacheMountMissing").map(|rule| rule.level), Some(Level::Info));
}

#[test]
fn a_cd_at_the_end_has_no_effect() {
    table(
        "CdInRun",
        &["RUN cd /a", "RUN make && cd /a", "RUN cd a && mkdir b && cd b", "RUN cd"],
        &[
            "RUN cd a && make && cd ..",
            "RUN cd /a && make && cd -",
            "RUN cd /a && make && cd $B",
            "RUN make && cd /",
            "RUN cd /a && make",
            "RUN test -d a || cd /b",
            "RUN (cd /a; make)",
        ],
    );
}

#[test]
fn an_instruction_has_a_command() {
    table(
        "EmptyCommand",
        &["RUN", "CMD", "ENTRYPOINT", "RUN --network=none"],
        &["RUN a", "CMD []", "ENTRYPOINT []", "RUN <<E\nE"],
    );
}

#[test]
fn dependencies_come_before_sources() {
    table(
        "CopyBeforeDependencies",
        &[
            "COPY . .\nRUN npm ci",
            "COPY . /app\nRUN --mount=type=cache,target=/p pip install --no-cache-dir -r requirements.txt",
            "ADD . .\nRUN apt-get moo && go mod download",
        ],
        &[
            "COPY package.json .\nRUN npm ci\nCOPY . .",
            "COPY package.json .\nRUN npm ci\nCOPY . .\nRUN npm ci --omit=dev",
            "COPY . .\nRUN npm install -g tool",
            "COPY . .\nRUN npm run build",
            "COPY --from=y . .\nRUN npm ci",
            "COPY . .\nRUN git clone u /x && cd /x && npm install",
            "COPY . .\nRUN pip install -r https://h/requirements.txt",
        ],
    );
}

#[test]
fn scripts_stop_at_the_first_failure() {
    table(
        "HeredocWithoutErrexit",
        &["RUN <<E\na\nb\nE", "RUN bash <<E\na\nb\nE", "RUN <<E\n#!/bin/sh\na\nb\nE", "RUN <<E\na; b\nE"],
        &[
            "RUN <<E\nset -e\na\nb\nE",
            "RUN <<E\nset -euo pipefail\na\nb\nE",
            "RUN <<E\nset -o errexit\na\nb\nE",
            "RUN <<E\na\nE",
            "RUN <<E\na &&\nb\nE",
            "RUN bash -e <<E\na\nb\nE",
            "RUN <<E\n#!/bin/sh -e\na\nb\nE",
            "RUN <<E\n#!/usr/bin/env python3\na\nb\nE",
            "SHELL [\"/bin/bash\", \"-ec\"]\nRUN <<E\na\nb\nE",
            "RUN cat <<E >/f\na\nb\nE",
            "RUN python3 <<E\na\nb\nE",
        ],
    );
    let inherited = "FROM x:1 AS a\nSHELL [\"/bin/bash\", \"-ec\"]\nFROM a\nRUN <<E\na\nb\nE\n";
    assert!(!names(inherited).contains(&"HeredocWithoutErrexit"));
}

#[test]
fn misspelt_directives_are_found() {
    for (text, count) in [
        ("# check=skip=StageNameCasin\nFROM x:1\n", 1),
        ("FROM x:1\n# check=skips=A\nRUN a\n", 1),
        ("# check=skip=StageNameCasing,SudoInRun,all\nFROM x:1\n", 1),
        ("# check=skip=StageNameCasing and more\nFROM x:1\n", 1),
        ("# check=skip=StageNameCasing, SudoInRun\nFROM x:1\n", 1),
        ("# check=skip=StageNameCasing // and more\nFROM x:1\n", 0),
        ("FROM x:1\n# check=skip=SudoInRun // SudoIn, and more\nRUN a\n", 0),
        ("# check=skip=all;experimental=all\nFROM x:1\n", 0),
        ("# check=skip=StageNameCasing\nFROM x:1\n", 0),
    ] {
        assert_eq!(names(text).iter().filter(|name| **name == "InvalidCheckOption").count(), count, "{text}");
    }
}

#[test]
fn json_that_is_none_is_found() {
    table(
        "MalformedJsonForm",
        &[
            "RUN ['a']",
            "CMD [\"a\",]",
            "VOLUME ['/a']",
            "VOLUME [ '/a' ]",
            "CMD [\"a\", $B]",
            "CMD [\u{201c}a\u{201d}]",
            "CMD [\"a\"] # [\"b\"]",
        ],
        &[
            "RUN [ -f a ]",
            "CMD [\"a\"]",
            "RUN [\"a\"]",
            "RUN [ \"$a\" = 0 ]",
            "RUN [ \"$a\" == \"b\" ] && [ \"$c\" -gt 4 ]",
            "RUN [ '1' != \"$(id -u)\" ]",
            "HEALTHCHECK CMD [ \"$a\" = \"true\" ]",
        ],
    );
}

#[test]
fn pip_keeps_no_downloads() {
    table(
        "PipWithoutNoCacheDir",
        &["RUN pip install a", "RUN python3 -m pip install a"],
        &[
            "RUN pip install --no-cache-dir a",
            "RUN --mount=type=cache,target=/root/.cache/pip pip install a",
            "ENV PIP_NO_CACHE_DIR=1\nRUN pip install a",
            "RUN pip install a && rm -rf /root/.cache",
            "RUN pip install --no-cache a",
            "RUN pip install --cache-dir=/tmp/c a",
            "RUN pip install --no-index a",
            "RUN pip install $PIP_OPTIONS a",
            "RUN PIP_NO_CACHE_DIR=1 pip install a",
            "RUN export PIP_CACHE_DIR=/tmp && pip install a",
            "COPY pip.conf /etc/\nRUN pip install a",
            "RUN pip config set global.no-cache-dir true\nRUN pip install a",
            "ENV XDG_CACHE_HOME=/tmp/c\nRUN pip install a",
            "RUN pip uninstall a",
        ],
    );
    let below = "FROM x:1 AS a\nENV PIP_NO_CACHE_DIR=1\nFROM a\nRUN pip install b\n";
    assert!(names(below).is_empty());
    let beside = "FROM x:1 AS a\nFROM a\nRUN pip install b\n";
    assert_eq!(names(beside), ["PipWithoutNoCacheDir"]);
}

#[test]
fn files_with_secrets_stay_out() {
    table(
        "SecretFileCopied",
        &[
            "COPY .env /",
            "COPY a/id_rsa /k",
            "ADD .npmrc .",
            "COPY server.pem /",
            "COPY .ssh /root/.ssh",
            "COPY .env.prod /",
            "COPY privkey.pem /",
            "COPY certs/site.key /etc/ssl/",
        ],
        &[
            "COPY postgresql.gpg.key /tmp/",
            "COPY nginx_public_keys.key /tmp/",
            "COPY azl3-repomd.xml.key /tmp/",
            "COPY fullchain.pem /",
            "COPY apache.pem /",
            "COPY .env.docker /.env",
            "COPY vendor.key /etc/apt/trusted.gpg.d/",
            "COPY vendor.key /tmp/\nRUN apt-key add /tmp/vendor.key",
            "COPY vendor.key /tmp/\nRUN rpm --import /tmp/vendor.key",
            "COPY vendor.rsa.key /etc/apk/keys/",
            "COPY .env.example /",
            "COPY id_rsa.pub /",
            "COPY ca-cert.pem /",
            "COPY --from=y .npmrc /",
            "COPY a/environment /",
            "COPY *.pem /",
        ],
    );
}

#[test]
fn sudo_is_not_needed() {
    table(
        "SudoInRun",
        &[
            "RUN sudo a",
            "RUN curl u | sudo -E bash -",
            "RUN x && sudo -u root a",
            "USER b\nUSER 0:0\nRUN sudo a",
        ],
        &[
            "RUN echo sudo",
            "USER b\nRUN a",
            "RUN sudo -u b a",
            "RUN sudo -EH -u b a",
            "RUN sudo --user=b a",
            "USER b\nRUN sudo a",
            "USER $B\nRUN sudo a",
        ],
    );
    // Other images than official ones may have another user than root.
    assert!(!names("FROM me/x:1\nRUN sudo a\n").contains(&"SudoInRun"));
    assert!(!names("FROM x:1 AS a\nUSER b\nFROM a\nRUN sudo c\n").contains(&"SudoInRun"));
}

#[test]
fn copy_is_for_plain_files() {
    table(
        "AddInsteadOfCopy",
        &["ADD a.txt /", "ADD . /", "ADD dir/ b.py /"],
        &[
            "ADD a.tar.gz /",
            "ADD rootfs /",
            "ADD https://h/a.txt /",
            "ADD git@h:a.git /",
            "ADD $A /",
            "ADD *.txt /",
            "COPY a.txt /",
            "ADD --unpack=true a.txt /",
        ],
    );
}

#[test]
fn bases_are_pinned() {
    for (text, expected) in [
        ("FROM debian\n", 1),
        ("FROM debian:latest\n", 1),
        ("FROM h:5000/debian\n", 1),
        ("ARG V=latest\nFROM debian:$V\n", 1),
        ("FROM debian:12\n", 0),
        ("FROM debian:12 AS debian\nFROM debian\n", 0),
        ("FROM scratch\n", 0),
        ("FROM a@sha256:0123456789012345678901234567890123456789012345678901234567890123\n", 0),
    ] {
        assert_eq!(names(text).iter().filter(|name| **name == "UnpinnedBase").count(), expected, "{text}");
    }
}

#[test]
fn bases_are_locked_where_there_is_a_lock_or_the_rule_is_asked_for() {
    let asked = |text: &str| names(&format!("# check=experimental=UnlockedBase\n{text}"));
    for (text, expected) in [
        ("FROM debian:12\n", 1),
        ("FROM debian:12 AS a\nFROM a\n", 1),
        ("FROM scratch\n", 0),
        ("FROM sha256:0123\n", 0),
    ] {
        let count = |names: Vec<&str>| names.iter().filter(|name| **name == "UnlockedBase").count();
        assert_eq!((count(asked(text)), count(names(text))), (expected, 0), "{text}");
        let has_debian = |name: &str| name == "docker.io/library/debian:12";
        for (locked, expected) in [(has_debian as fn(&str) -> bool, 0), (|_| false, expected)] {
            let setup = Setup { locked: Some(locked), ..Setup::hints() };
            let found = setup.check(text);
            let found = found.findings.iter().filter(|one| one.rule.name == "UnlockedBase").count();
            assert_eq!(found, expected, "{text}");
            assert!(
                setup
                    .check(&format!("# check=skip=UnlockedBase\n{text}"))
                    .findings
                    .iter()
                    .all(|one| one.rule.name != "UnlockedBase")
            );
        }
    }
}

#[test]
fn what_buildkit_does_not_read_is_reported() {
    table(
        "HeredocDashSpace",
        &["RUN cat <<- E\nE", "COPY <<-  \"E\" /a\nE", "RUN cat <<-E && cat <<-\tF\nE\nF"],
        &["RUN cat <<-E\nE", "RUN cat << E\nE", "RUN echo $((1 <<- 2))"],
    );
    for (text, expected) in [
        ("FROM x:1 AS a\nFROM A\n", 1),
        ("FROM x:1 AS A\nFROM A\n", 1),
        ("ARG N=A\nFROM x:1 AS a\nFROM $N\n", 1),
        ("FROM x:1 AS A\nFROM a\n", 0),
        ("FROM x:1 AS a\nFROM x:1\nCOPY --from=A b /\n", 0),
    ] {
        let found = names(text);
        assert_eq!(found.iter().filter(|name| **name == "StageReferenceCasing").count(), expected, "{text}");
    }
}

#[test]
fn stages_are_used_or_named() {
    for (text, expected) in [
        ("FROM x:1\nFROM x:1\n", 1),
        ("FROM x:1\nFROM x:1\nCOPY --from=0 a /\n", 0),
        ("FROM x:1\nFROM x:1\nRUN --mount=from=0,target=/a b\n", 0),
        ("FROM x:1 AS test\nFROM x:1\n", 0),
    ] {
        assert_eq!(names(text).iter().filter(|name| **name == "UnusedStage").count(), expected, "{text}");
    }
}

/// The Dockerfile under a heading of a rule's page.
fn example(page: &str, heading: &str) -> String {
    let section = page.split(heading).nth(1).unwrap_or_default();
    let block = section.split("```dockerfile\n").nth(1).unwrap_or_default();
    block.split("```").next().unwrap_or_default().to_owned()
}

#[test]
fn the_examples_of_the_pages_are_bad_and_good_as_they_say() {
    for rule in RULES.iter().filter(|rule| rule.level != Level::Warning) {
        let page = explain(rule.name).unwrap_or_default();
        assert!(names(&example(&page, "## Bad")).contains(&rule.name), "{}: bad", rule.name);
        let good = names(&example(&page, "## Good"));
        assert!(good.is_empty(), "{}: {good:?}", rule.name);
    }
}
