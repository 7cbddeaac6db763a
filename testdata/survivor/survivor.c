/* A step that wants to outlive the builder, and what it takes to test the builder's own start. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

static void deaf(void) {
    prctl(PR_SET_PDEATHSIG, 0);
    for (int number = 1; number < 65; number++) signal(number, SIG_IGN);
}

/* Writes where the next builder writes, and swaps a directory and a link that the next builder may remove. */
static void work(int number, const char *outside) {
    char name[64], dir[64], link[64];
    deaf();
    snprintf(name, sizeof name, "/c/alive-%d", number);
    snprintf(dir, sizeof dir, "/tmp/d%d", number);
    snprintf(link, sizeof link, "/tmp/l%d", number);
    int log = open(name, O_WRONLY | O_CREAT | O_APPEND, 0644);
    int lock = open("/c/lock", O_RDWR | O_CREAT, 0644);
    flock(lock, LOCK_EX | LOCK_NB);
    mkdir(dir, 0755);
    (void)!symlink(outside, link);
    for (;;) {
        (void)!write(log, ".", 1);
        syscall(SYS_renameat2, AT_FDCWD, dir, AT_FDCWD, link, 2);
        char file[128];
        snprintf(file, sizeof file, "%s/x", dir);
        close(open(file, O_WRONLY | O_CREAT, 0));
        usleep(200);
    }
}

/* PROGRAM ARGUMENTS with a filter like that of a container runtime that does not know clone3. */
static int without_clone3(char **argv) {
    /* Load the number; if it is that of clone3, ENOSYS; else allow. (musl-gcc has no kernel headers.) */
    struct { unsigned short code; unsigned char yes, no; unsigned value; } code[] = {
        {0x20, 0, 0, 0}, {0x15, 0, 1, 435}, {0x06, 0, 0, 0x00050000 | ENOSYS}, {0x06, 0, 0, 0x7fff0000},
    };
    struct { unsigned short length; void *code; } filter = {sizeof code / sizeof *code, code};
    if (prctl(PR_SET_SECCOMP, 2, &filter)) return perror("seccomp"), 1;
    execvp(argv[0], argv);
    return perror(argv[0]), 1;
}

/* What the builder's file says to somebody who wants to write to it. */
static int overwrite(void) {
    int file = open("/proc/self/exe", O_RDONLY);
    char path[64];
    snprintf(path, sizeof path, "/proc/self/fd/%d", file);
    const char *names[] = {"/proc/self/exe", path};
    for (int at = 0; at < 2; at++) {
        int opened = open(names[at], O_WRONLY);
        printf("open %d\n", opened < 0 ? errno : 0);
    }
    printf("chmod %d\n", chmod("/proc/self/exe", 0777) ? errno : 0);
    fflush(stdout);
    return 0;
}

int main(int argc, char **argv) {
    if (argc > 2 && !strcmp(argv[1], "without-clone3")) return without_clone3(argv + 2);
    if (argc < 4 || strcmp(argv[1], "outlive")) return overwrite();
    /* argv[2] is a mark to be found by. */
    deaf();
    for (int number = 1; number < 4; number++) {
        if (fork()) continue;
        if (number > 1) setsid();
        if (number > 2 && fork()) _exit(0);
        work(number, argv[3]);
    }
    work(0, argv[3]);
}
