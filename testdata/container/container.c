/* Executes a program as an engine's default container does: with Docker's capabilities at most, and with a
 * filter that denies namespaces and mounts.
 *
 *     container PROGRAM [ARGUMENT...]
 */
#define _GNU_SOURCE
#include <errno.h>
#include <stdio.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

/* From the kernel's headers, which musl-gcc does not find. */
struct filter {
    unsigned short code;
    unsigned char yes, no;
    unsigned int k;
};
struct filters {
    unsigned short length;
    struct filter *first;
};
enum { LOAD_WORD = 0x20, IF_EQUAL = 0x15, IF_ANY_BIT = 0x45, RETURN = 0x06 };
enum { AT_NUMBER = 0, AT_FIRST_ARGUMENT = 16 };
enum { ALLOW = 0x7fff0000, ERRNO = 0x00050000, MODE_FILTER = 2 };

#define DENY(call, number) {IF_EQUAL, 0, 1, (call)}, {RETURN, 0, 0, ERRNO | (number)}

/* CHOWN DAC_OVERRIDE FOWNER FSETID KILL SETGID SETUID SETPCAP NET_BIND_SERVICE NET_RAW SYS_CHROOT MKNOD
 * AUDIT_WRITE SETFCAP */
static const unsigned char kept[] = {0, 1, 3, 4, 5, 6, 7, 8, 10, 13, 18, 27, 29, 31};

static int drop_capabilities(void)
{
    for (int number = 0; prctl(PR_CAPBSET_READ, number) >= 0; number++) {
        int keep = 0;
        for (size_t i = 0; i < sizeof kept; i++)
            keep |= kept[i] == number;
        if (!keep && geteuid() == 0 && prctl(PR_CAPBSET_DROP, number))
            return -1;
    }
    return 0;
}

int main(int argc, char **argv)
{
    struct filter code[] = {
        {LOAD_WORD, 0, 0, AT_NUMBER},
        DENY(__NR_unshare, EPERM),
        DENY(__NR_setns, EPERM),
        DENY(__NR_mount, EPERM),
        DENY(__NR_umount2, EPERM),
        DENY(__NR_pivot_root, EPERM),
        DENY(428 /* open_tree */, EPERM),
        DENY(429 /* move_mount */, EPERM),
        DENY(430 /* fsopen */, EPERM),
        DENY(442 /* mount_setattr */, EPERM),
        DENY(435 /* clone3 */, ENOSYS),
        {IF_EQUAL, 0, 3, __NR_clone},
        {LOAD_WORD, 0, 0, AT_FIRST_ARGUMENT},
        {IF_ANY_BIT, 0, 1, 0x7e020000 /* CLONE_NEW* */},
        {RETURN, 0, 0, ERRNO | EPERM},
        {RETURN, 0, 0, ALLOW},
    };
    struct filters program = {sizeof code / sizeof *code, code};

    if (argc < 2 || drop_capabilities())
        return 125;
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) || prctl(PR_SET_SECCOMP, MODE_FILTER, &program))
        return 125;
    execv(argv[1], argv + 1);
    perror(argv[1]);
    return 127;
}
