/* What a step may try that a container without namespaces has to withstand, and what it may do.
 *
 *     hostile escape FILE     tries all ways out of the root directory to FILE
 *     hostile race            reads environments while other threads change the paths, and looks for OUTSIDE_MARK
 *     hostile again           executes itself by /proc/self/exe, from vfork
 *     hostile kill PID        signals and traces a process
 *     hostile daemon          leaves a process behind that has a session of its own and ignores signals
 *     hostile capability FILE gives a file CAP_NET_RAW
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <unistd.h>

static void tell(const char *what, long result)
{
    printf("%s: %s\n", what, result < 0 ? strerror(errno) : "done");
}

/* By the directory that is open, whatever the root directory is. */
static void leave(const char *from, int flags, const char *file)
{
    struct { unsigned long long flags, mode, resolve; } how = {O_RDONLY, 0, 0};
    char path[4096], up[4096] = "";
    int dir = open(from, flags | O_DIRECTORY | O_CLOEXEC);

    if (dir < 0) {
        tell(from, -1);
        return;
    }
    for (int i = 0; i < 64; i++)
        strcat(up, "../");
    snprintf(path, sizeof path, "%s%s", up, file + 1);
    if (!faccessat(dir, path, F_OK, 0) || syscall(437 /* openat2 */, dir, path, &how, sizeof how) >= 0)
        printf("FOUND from %s\n", from);
    if (fchdir(dir))
        tell(from, -1);
    for (int i = 0; i < 64; i++)
        if (chdir(".."))
            break;
    if (!access(file + 1, F_OK) || !access(file, F_OK) || !chmod(file + 1, 0777))
        printf("FOUND behind %s\n", from);
    if (chdir("/"))
        tell("chdir", -1);
}

static int escape(const char *file)
{
    static const char *const from[] = {
        "/proc", "/proc/self", "/proc/self/fd", "/proc/self/task", "/proc/self/cwd", "/proc/self/root",
        "/proc/thread-self", "/proc/sys", "/proc/self/net", "/proc/self/map_files", "/proc/1", "/proc/1/root",
        "/proc/1/cwd", "/sys", "/sys/class", "/sys/fs/cgroup", "/dev", "/dev/pts", "/dev/fd", "/",
    };
    char path[4096], outside[64];
    struct stat stat_of_root;

    mkdir("/jail", 0755);
    tell("chroot", chroot("/jail"));
    for (size_t i = 0; i < sizeof from / sizeof *from; i++) {
        leave(from[i], O_RDONLY, file);
        leave(from[i], O_PATH, file);
    }
    /* Of the process above this one, which is outside. */
    snprintf(outside, sizeof outside, "/proc/%d", (int)getppid());
    leave(outside, O_RDONLY, file);
    for (int i = 0; i < 2; i++) {
        snprintf(path, sizeof path, "/proc/%d/root%s", i ? 1 : (int)getppid(), file);
        if (!access(path, F_OK) || open(path, O_RDONLY) >= 0 || open(path, O_RDONLY | O_PATH) >= 0)
            printf("FOUND %s\n", path);
    }
    stat("/", &stat_of_root);
    mknod("/disk", S_IFBLK | 0600, stat_of_root.st_dev);
    mknodat(AT_FDCWD, "/memory", S_IFCHR | 0600, makedev(1, 1));
    for (int i = 0; i < 2; i++) {
        int device = open(i ? "/memory" : "/disk", O_RDONLY);
        if (device >= 0 && read(device, path, 512) > 0)
            printf("FOUND a device\n");
    }
    tell("io_uring", syscall(425 /* io_uring_setup */, 8, path));
    tell("pidfd_getfd", syscall(438, syscall(434 /* pidfd_open */, getppid(), 0), 0, 0));
    tell("open_by_handle_at", syscall(SYS_open_by_handle_at, AT_FDCWD, path, O_RDONLY));
    tell("unshare", syscall(SYS_unshare, 0x10000000 /* CLONE_NEWUSER */));
    tell("mount", syscall(SYS_mount, "none", "/jail", "tmpfs", 0, 0));
    return 0;
}

static char raced[64];
static char other[64];

static void *change(void *none)
{
    (void)none;
    for (;;) {
        memcpy(raced, "/proc/self/environ", 19);
        memcpy(raced, other, sizeof other);
    }
    return 0;
}

static int race(void)
{
    static char text[1 << 16];
    pthread_t thread;
    int above = getppid(), opened = 0;

    for (int at = 0; at < 2; at++)
        if (pthread_create(&thread, 0, change, 0))
            return 1;
    for (int round = 0; round < 20000; round++) {
        snprintf(other, sizeof other, "/proc/%d/environ", round % 3 ? above - round % 100 : 1);
        int file = open(raced, O_RDONLY | O_CLOEXEC);
        if (file < 0)
            continue;
        opened++;
        ssize_t length = read(file, text, sizeof text - 1);
        close(file);
        for (ssize_t i = 0; i + 13 < length; i++)
            if (!memcmp(text + i, "OUTSIDE_MARK=", 13)) {
                printf("FOUND an environment\n");
                return 0;
            }
    }
    printf("raced %s\n", opened ? "well" : "for nothing");
    return 0;
}

static int again(void)
{
    int status = 0;
    pid_t child = vfork();

    if (child == 0) {
        execl("/proc/self/exe", "again", "said", (char *)0);
        _exit(1);
    }
    waitpid(child, &status, 0);
    return status ? 1 : 0;
}

int main(int argc, char **argv)
{
    static const unsigned char net_raw[20] = {0, 0, 0, 2, 0, 0x20};
    const char *verb = argc > 1 ? argv[1] : "";
    const char *argument = argc > 2 ? argv[2] : "";
    if (!strcmp(verb, "escape"))
        return escape(argument);
    if (!strcmp(verb, "race"))
        return race();
    if (!strcmp(verb, "again"))
        return again();
    if (!strcmp(verb, "said")) {
        printf("executed again\n");
        return 0;
    }
    if (!strcmp(verb, "kill")) {
        tell("signal", kill(atoi(argument), SIGUSR2));
        tell("trace", ptrace(PTRACE_SEIZE, atoi(argument), 0, 0));
        return 0;
    }
    if (!strcmp(verb, "capability"))
        return !!setxattr(argument, "security.capability", net_raw, sizeof net_raw, 0);
    if (!strcmp(verb, "daemon")) {
        if (fork())
            return 0;
        setsid();
        for (int number = 1; number < 32; number++)
            signal(number, SIG_IGN);
        prctl(PR_SET_PDEATHSIG, 0);
        if (fork())
            return 0;
        for (;;)
            sleep(1);
    }
    return 2;
}
