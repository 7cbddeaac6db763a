// Many processes, each with another user: all of them at the same time, and one after another. Says how many were
// not who they had become, or whose child was not.
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

static int is(unsigned id) {
    return getuid() == id && geteuid() == id && getgid() == id;
}

static int become(unsigned id) {
    return setgid(id) == 0 && setuid(id) == 0 && is(id);
}

// Whether a grandchild, whose parent has ended, is still somebody.
static int daemon_is(unsigned id) {
    int ends[2];
    char byte = 0;
    if (pipe(ends) != 0) return 0;
    if (fork() == 0) {
        if (fork() == 0) {
            while (getppid() != 1) usleep(1000);
            byte = is(id);
            write(ends[1], &byte, 1);
        }
        _exit(0);
    }
    close(ends[1]);
    read(ends[0], &byte, 1);
    close(ends[0]);
    while (wait(NULL) > 0) {}
    return byte == 1;
}

static int wrong(int count) {
    int failed = 0, status;
    while (count-- > 0) {
        if (wait(&status) < 0 || status != 0) failed++;
    }
    return failed;
}

int main(int argc, char **argv) {
    int most = argc > 1 ? atoi(argv[1]) : 3000, go[2];
    char byte;
    if (pipe(go) != 0) return 1;
    int started = 0;
    for (int n = 1; n <= most; n++) {
        int pid = fork();
        if (pid == 0) {
            close(go[1]);
            int good = become(1000 + n);
            read(go[0], &byte, 1);
            _exit(good && is(1000 + n) && (n % 100 || daemon_is(1000 + n)) ? 0 : 1);
        }
        if (pid > 0) started++;
    }
    close(go[1]);
    int at_once = wrong(started), in_turn = 0;
    for (int n = 1; n <= most; n++) {
        if (fork() == 0) _exit(become(1000 + n) ? 0 : 1);
        in_turn += wrong(1);
    }
    printf("started %d wrong %d %d root %d\n", started, at_once, in_turn, is(0));
    return 0;
}
