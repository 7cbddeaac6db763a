/* What a step may try that a container without namespaces has to withstand, and what it may do.
 *
 *     hostile escape FILE     leaves the root directory by a second chroot, and reads and writes FILE there
 *     hostile kill PID        signals and traces a process
 *     hostile daemon          leaves a process behind that has a session of its own and ignores signals
 *     hostile capability FILE gives a file CAP_NET_RAW
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/xattr.h>
#include <unistd.h>

static void tell(const char *what, long result)
{
    printf("%s: %s\n", what, result < 0 ? strerror(errno) : "done");
}

static int escape(const char *file)
{
    mkdir("/jail", 0755);
    if (chroot("/jail")) {
        tell("chroot", -1);
        return 0;
    }
    for (int i = 0; i < 64; i++)
        if (chdir(".."))
            break;
    chroot(".");
    tell("see", access(file, F_OK));
    tell("read", open(file, O_RDONLY));
    tell("write", open(file, O_WRONLY | O_APPEND));
    tell("remove", unlink(file));
    tell("make", open("/tmp/rbuild-was-here", O_CREAT | O_WRONLY, 0600));
    tell("list", open("/", O_RDONLY | O_DIRECTORY));
    tell("execute", execl("/bin/true", "true", (char *)0));
    return 0;
}

int main(int argc, char **argv)
{
    static const unsigned char net_raw[20] = {0, 0, 0, 2, 0, 0x20};
    const char *verb = argc > 1 ? argv[1] : "";
    const char *argument = argc > 2 ? argv[2] : "";
    if (!strcmp(verb, "escape"))
        return escape(argument);
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
