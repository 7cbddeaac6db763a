/* Tries, from inside a sandbox, what only the machine outside should be able to do, in ways that do no
 * harm where they succeed: files are opened and not written, calls have arguments that are refused
 * behind the check for permission.
 *
 *   probes                 one line for each probe: NAME denied|allowed ERRNO
 *   probes list            one line for each probe: NAME what it tries
 *   probes syscalls        one line for each system call: NUMBER ERRNO, called with senseless arguments
 *   probes serve           listens on the machine's loopback and on an abstract socket, prints
 *                          PROBE_PID, PROBE_PORT and PROBE_SOCKET, and waits to be killed
 *
 * With those three in its environment, it looks for that process and its sockets.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <sched.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/personality.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/time.h>
#include <sys/timex.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* Younger than some C libraries; the same number everywhere. */
#define CALL_pidfd_send_signal 424
#define CALL_io_uring_setup 425
#define CALL_open_tree 428
#define CALL_fsopen 430
#define CALL_clone3 435
#define CALL_pidfd_open 434
#define CALL_pidfd_getfd 438
#define CALL_process_madvise 440
#define CALL_mount_setattr 442
#define CALL_quotactl_fd 443
#define CALL_statmount 457
#define CALL_listmount 458

#define DEFAULT_CAPABILITIES 0xa80425fbULL

/* 0 is allowed, anything else the errno that it was denied with. */
typedef int probe_fn(void);
#define PROBE(name) static int name(void)

static long number(const char *name) {
    const char *text = getenv(name);
    return text ? atol(text) : 0;
}

static pid_t host_process(void) { return number("PROBE_PID") ? number("PROBE_PID") : 99999999; }

/* Denied is what permission is refused with; any other error comes from behind that check. */
static int reached(long result) {
    if (result >= 0) return 0;
    return errno == EPERM || errno == EACCES || errno == ENOSYS ? errno : 0;
}

static int succeeded(long result) { return result >= 0 ? 0 : errno; }

static int opens(const char *path, int flags) { return succeeded(open(path, flags | O_NONBLOCK)); }

static int any_opens(const char *const *paths, int flags) {
    int error = ENOENT;
    for (; *paths; paths++) {
        int now = opens(*paths, flags);
        if (now == 0) return 0;
        if (now != ENOENT) error = now;
    }
    return error;
}

/* Whether there is a byte in a file or an entry in a directory. */
static int has_content(const char *path) {
    DIR *dir = opendir(path);
    if (dir) {
        struct dirent *entry;
        while ((entry = readdir(dir)))
            if (entry->d_name[0] != '.') return 0;
        return ENOENT;
    }
    /* Some files give whole entries only. */
    char entries[64];
    int fd = open(path, O_RDONLY | O_NONBLOCK);
    if (fd < 0) return errno;
    long count = read(fd, entries, sizeof entries);
    return count > 0 ? 0 : count == 0 ? ENODATA : errno;
}

static int same_place(const char *a, const char *b) {
    struct stat one, two;
    return stat(a, &one) == 0 && stat(b, &two) == 0 && one.st_dev == two.st_dev && one.st_ino == two.st_ino;
}

static unsigned long long status(const char *field, int base) {
    static char line[512];
    FILE *file = fopen("/proc/self/status", "r");
    size_t length = strlen(field);
    while (file && fgets(line, sizeof line, file))
        if (!strncmp(line, field, length) && line[length] == ':') return strtoull(line + length + 1, 0, base);
    return ~0ULL;
}

/* Processes. */
PROBE(host_processes) {
    DIR *dir = opendir("/proc");
    struct dirent *entry;
    while (dir && (entry = readdir(dir))) {
        char path[300], name[64] = "";
        snprintf(path, sizeof path, "/proc/%.200s/comm", entry->d_name);
        FILE *file = fopen(path, "r");
        if (file && fgets(name, sizeof name, file) && !strcmp(name, "kthreadd\n")) return 0;
        if (file) fclose(file);
        if (number("PROBE_PID") && atol(entry->d_name) == number("PROBE_PID")) return 0;
    }
    return ESRCH;
}
PROBE(signal_host) { return succeeded(kill(host_process(), 0)); }
PROBE(ptrace_host) { return succeeded(ptrace(0x4206, host_process(), 0, 0)); }
PROBE(vm_read_host) {
    char byte;
    struct iovec own = {&byte, 1}, other = {(void *)&byte, 1};
    long result = syscall(SYS_process_vm_readv, host_process(), &own, 1, &other, 1, 0);
    return result < 0 && errno == ESRCH ? ESRCH : reached(result);
}
PROBE(pidfd_host) { return succeeded(syscall(CALL_pidfd_open, host_process(), 0)); }
PROBE(ptrace_child) {
    pid_t child = fork();
    if (child == 0) { pause(); _exit(0); }
    int result = succeeded(ptrace(0x4206, child, 0, 0));
    kill(child, SIGKILL);
    return result;
}
PROBE(vm_read_own) {
    char from = 1, to = 0;
    struct iovec own = {&to, 1}, other = {&from, 1};
    return succeeded(syscall(SYS_process_vm_readv, getpid(), &own, 1, &other, 1, 0));
}
PROBE(pidfd_getfd) {
    int self = syscall(CALL_pidfd_open, getpid(), 0);
    return self < 0 ? errno : reached(syscall(CALL_pidfd_getfd, self, 0, 0));
}
PROBE(process_madvise) {
    int self = syscall(CALL_pidfd_open, getpid(), 0);
    return self < 0 ? errno : reached(syscall(CALL_process_madvise, self, 0, 0, 20, 0));
}
PROBE(kcmp) { return reached(syscall(SYS_kcmp, getpid(), getppid(), 0, 0, 0)); }
PROBE(root_of_init) { return same_place("/proc/1/root/.", "/") ? ENOENT : access("/proc/1/root/.", R_OK) ? errno : 0; }
PROBE(init_cwd_outside) {
    char link[4096];
    long length = readlink("/proc/1/cwd", link, sizeof link - 1);
    if (length < 0) return errno;
    return link[0] == '/' ? ENOENT : 0;
}
PROBE(leaked_descriptors) {
    /* What this program opens itself comes behind everything it was given. */
    for (int fd = 3; fd < 1024; fd++)
        if (fcntl(fd, F_GETFD) >= 0) return 0;
    return EBADF;
}
PROBE(overwrite_init_program) {
    /* The program of the process that starts programs in here must not be a file of the machine. */
    struct stat exe;
    if (stat("/proc/1/exe", &exe)) return errno;
    struct stat root;
    if (stat("/", &root)) return errno;
    char link[4096];
    long length = readlink("/proc/1/exe", link, sizeof link - 1);
    if (length < 0) return errno;
    link[length] = 0;
    struct stat named;
    if (stat(link, &named) == 0 && named.st_ino == exe.st_ino && named.st_dev == exe.st_dev) return ENOENT;
    return opens("/proc/1/exe", O_WRONLY);
}
static int own_namespace(const char *kind, unsigned first) {
    char path[64], link[64] = "";
    snprintf(path, sizeof path, "/proc/self/ns/%s", kind);
    if (readlink(path, link, sizeof link - 1) < 0) return errno;
    const char *inode = strchr(link, '[');
    return inode && strtoul(inode + 1, 0, 10) == first ? 0 : ENOENT;
}
PROBE(host_pid_namespace) { return own_namespace("pid", 0xEFFFFFFC); }
PROBE(host_uts_namespace) { return own_namespace("uts", 0xEFFFFFFE); }
PROBE(host_ipc_namespace) { return own_namespace("ipc", 0xEFFFFFFF); }
PROBE(host_cgroup_namespace) { return own_namespace("cgroup", 0xEFFFFFFB); }

/* /proc and /sys. */
PROBE(write_core_pattern) { return opens("/proc/sys/kernel/core_pattern", O_WRONLY); }
PROBE(write_modprobe) { return opens("/proc/sys/kernel/modprobe", O_WRONLY); }
PROBE(write_kernel_knobs) {
    static const char *const paths[] = {"/proc/sys/kernel/randomize_va_space", "/proc/sys/vm/drop_caches",
        "/proc/sys/vm/overcommit_memory", "/proc/sys/kernel/yama/ptrace_scope", "/proc/sys/fs/protected_symlinks", 0};
    return any_opens(paths, O_WRONLY);
}
PROBE(write_net_knobs) {
    static const char *const paths[] = {"/proc/sys/net/ipv4/ip_forward", "/proc/sys/net/core/somaxconn", 0};
    return any_opens(paths, O_WRONLY);
}
PROBE(write_own_hostname_knob) { return opens("/proc/sys/kernel/hostname", O_WRONLY); }
PROBE(register_binfmt) { return opens("/proc/sys/fs/binfmt_misc/register", O_WRONLY); }
PROBE(write_sysrq_trigger) { return opens("/proc/sysrq-trigger", O_WRONLY); }
PROBE(write_irq) { return opens("/proc/irq/default_smp_affinity", O_WRONLY); }
PROBE(write_mtrr) { return opens("/proc/mtrr", O_WRONLY); }
PROBE(read_kcore) { return has_content("/proc/kcore"); }
PROBE(read_keys) { return has_content("/proc/keys"); }
PROBE(read_kmsg) { return opens("/proc/kmsg", O_RDONLY); }
PROBE(read_timer_list) { return has_content("/proc/timer_list"); }
PROBE(read_interrupts) { return has_content("/proc/interrupts"); }
PROBE(read_sched_debug) { return has_content("/proc/sched_debug"); }
PROBE(read_latency_stats) { return has_content("/proc/latency_stats"); }
PROBE(list_acpi) { return has_content("/proc/acpi"); }
PROBE(list_scsi) { return has_content("/proc/scsi"); }
PROBE(read_kpagemap) {
    static const char *const paths[] = {"/proc/kpageflags", "/proc/kpagecount", "/proc/kpagecgroup", "/proc/vmcore", 0};
    int error = ENOENT;
    for (int i = 0; paths[i]; i++)
        if ((error = has_content(paths[i])) == 0) return 0;
    return error;
}
PROBE(kernel_addresses) {
    unsigned long long address = 0;
    FILE *file = fopen("/proc/kallsyms", "r");
    if (!file) return errno;
    return fscanf(file, "%llx", &address) == 1 && address ? 0 : EPERM;
}
PROBE(physical_addresses) {
    uint64_t entry = 0, here = 1;
    int fd = open("/proc/self/pagemap", O_RDONLY);
    if (fd < 0) return errno;
    if (pread(fd, &entry, 8, (uintptr_t)&here / getpagesize() * 8) != 8) return errno;
    return entry & ((1ULL << 55) - 1) ? 0 : EPERM;
}
PROBE(shield_from_oom) {
    int fd = open("/proc/self/oom_score_adj", O_WRONLY);
    return fd < 0 ? errno : succeeded(write(fd, "-1000", 5));
}
PROBE(write_sys) {
    static const char *const paths[] = {"/sys/kernel/mm/ksm/run", "/sys/kernel/uevent_helper", "/sys/power/state",
        "/sys/kernel/profiling", "/sys/module/kernel/parameters/panic", "/sys/kernel/mm/transparent_hugepage/enabled",
        "/sys/bus/pci/rescan", "/sys/devices/system/cpu/cpu1/online", 0};
    return any_opens(paths, O_WRONLY);
}
PROBE(list_firmware) { return has_content("/sys/firmware"); }
PROBE(list_powercap) { return has_content("/sys/devices/virtual/powercap"); }
PROBE(list_debugfs) { return has_content("/sys/kernel/debug"); }
PROBE(list_tracefs) { return has_content("/sys/kernel/tracing"); }
PROBE(list_securityfs) { return has_content("/sys/kernel/security"); }
PROBE(list_bpffs) { return has_content("/sys/fs/bpf"); }
/* A directory of a cgroup file system is not empty from the start. */
static int makes_cgroup(const char *path) {
    char file[160];
    if (mkdir(path, 0755)) return errno;
    snprintf(file, sizeof file, "%s/cgroup.procs", path);
    int missing = succeeded(access(file, F_OK));
    rmdir(path);
    return missing;
}
static int in_cgroups(const char *name, int flags) {
    static const char *const dirs[] = {"", "/cpu", "/memory", "/devices", "/pids", "/systemd", "/unified", "/rdma", 0};
    int error = ENOENT;
    for (int i = 0; dirs[i]; i++) {
        char path[128];
        snprintf(path, sizeof path, "/sys/fs/cgroup%s/%s", dirs[i], name);
        int now = flags ? opens(path, flags) : makes_cgroup(path);
        if (now == 0) return 0;
        if (now != ENOENT) error = now;
    }
    return error;
}
PROBE(write_release_agent) { return in_cgroups("release_agent", O_WRONLY); }
PROBE(write_devices_allow) { return in_cgroups("devices.allow", O_WRONLY); }
PROBE(join_cgroup) { return in_cgroups("cgroup.procs", O_WRONLY); }
PROBE(make_cgroup) { return in_cgroups("rbuild-probe", 0); }

/* File systems and namespaces. */
static const char *mount_point(void) {
    mkdir("/tmp/probe-mount", 0755);
    return "/tmp/probe-mount";
}
PROBE(mount_tmpfs) { return succeeded(mount("none", mount_point(), "tmpfs", 0, 0)); }
PROBE(mount_proc) { return succeeded(mount("none", mount_point(), "proc", 0, 0)); }
PROBE(mount_cgroup) { return succeeded(mount("none", mount_point(), "cgroup", 0, "memory")); }
PROBE(remount_proc_sys) { return succeeded(mount(0, "/proc/sys", 0, MS_REMOUNT | MS_BIND, 0)); }
PROBE(bind_mount) { return succeeded(mount("/proc", mount_point(), 0, MS_BIND, 0)); }
PROBE(unmask) {
    static const char *const paths[] = {"/proc/kcore", "/proc/keys", "/sys/firmware", "/proc/sysrq-trigger", "/proc/sys", 0};
    int error = ENOENT;
    for (int i = 0; paths[i]; i++)
        if ((error = succeeded(umount2(paths[i], MNT_DETACH))) == 0) return 0;
    return error;
}
PROBE(new_mount_api) { return reached(syscall(CALL_fsopen, "tmpfs", 0)); }
PROBE(open_tree) { return reached(syscall(CALL_open_tree, AT_FDCWD, "/", 1)); }
PROBE(mount_setattr) { return reached(syscall(CALL_mount_setattr, AT_FDCWD, "/proc/sys", 0, 0, 0)); }
PROBE(listmount) { return reached(syscall(CALL_listmount, 0, 0, 0, 0)); }
PROBE(statmount) { return reached(syscall(CALL_statmount, 0, 0, 0, 0)); }
PROBE(pivot_root) { return reached(syscall(SYS_pivot_root, "/tmp", "/tmp")); }
PROBE(unshare_user) { return succeeded(unshare(CLONE_NEWUSER)); }
PROBE(unshare_mount) { return succeeded(unshare(CLONE_NEWNS)); }
PROBE(unshare_net) { return succeeded(unshare(CLONE_NEWNET)); }
PROBE(unshare_pid) { return succeeded(unshare(CLONE_NEWPID)); }
PROBE(clone_user) {
    long pid = syscall(SYS_clone, CLONE_NEWUSER | SIGCHLD, 0, 0, 0, 0);
    if (pid == 0) _exit(0);
    return succeeded(pid);
}
PROBE(clone3_user) {
    uint64_t arguments[8] = {CLONE_NEWUSER, 0, 0, 0, SIGCHLD, 0, 0, 0};
    long pid = syscall(CALL_clone3, arguments, sizeof arguments);
    if (pid == 0) _exit(0);
    return succeeded(pid);
}
PROBE(setns_of_init) {
    static const char *const kinds[] = {"mnt", "pid", "net", "user", 0};
    int error = ENOENT;
    for (int i = 0; kinds[i]; i++) {
        char path[64];
        snprintf(path, sizeof path, "/proc/1/ns/%s", kinds[i]);
        int fd = open(path, O_RDONLY);
        if (fd < 0) { error = errno; continue; }
        if ((error = reached(syscall(SYS_setns, fd, 0))) == 0) return 0;
    }
    return error;
}
struct handle { unsigned bytes; int kind; unsigned char data[128]; };
PROBE(file_handle_of) {
    struct handle handle = {128, 0, {0}};
    int mount;
    return reached(syscall(SYS_name_to_handle_at, AT_FDCWD, "/", &handle, &mount, 0));
}
PROBE(open_by_handle) {
    struct handle handle = {8, 1, {2}};
    int fd = open("/", O_RDONLY);
    return reached(syscall(SYS_open_by_handle_at, fd, &handle, 0));
}
PROBE(chroot_escape) {
    struct stat before, after;
    if (stat("/", &before)) return errno;
    int top = open("/", O_RDONLY);
    mkdir("/tmp/probe-jail", 0755);
    if (chroot("/tmp/probe-jail")) return errno;
    if (fchdir(top)) return errno;
    for (int i = 0; i < 64; i++)
        if (chdir("..")) return errno;
    if (chroot(".") || stat("/", &after)) return errno;
    return before.st_ino == after.st_ino && before.st_dev == after.st_dev ? ENOENT : 0;
}
PROBE(chroot_call) { return succeeded(chroot("/")); }
PROBE(fanotify_init) { return reached(syscall(SYS_fanotify_init, ~0, ~0)); }
PROBE(quotactl) { return reached(syscall(SYS_quotactl, (long)(0x800003 << 8), "/dev/null", 0, 0)); }
PROBE(quotactl_fd) { return reached(syscall(CALL_quotactl_fd, -1, 0, 0, 0)); }
PROBE(acct_call) { return reached(syscall(SYS_acct, "/nonexistent")); }
PROBE(swapon_call) { return reached(syscall(SYS_swapon, "/nonexistent", 0)); }
PROBE(swapoff_call) { return reached(syscall(SYS_swapoff, "/nonexistent")); }

/* Devices. */
static int opens_node(mode_t kind, int major, int minor, const char *path) {
    unlink(path);
    if (mknod(path, kind | 0600, makedev(major, minor))) return errno;
    int fd = open(path, O_RDONLY | O_NONBLOCK), error = errno;
    struct stat opened;
    int node = fd >= 0 && fstat(fd, &opened) == 0 && (opened.st_mode & S_IFMT) == kind;
    unlink(path);
    return fd < 0 ? error : node ? 0 : ENODEV;
}
/* Of a disk that this machine has. */
static int open_disk(const char *path) {
    int major = 8, minor = 0, error = ENODEV;
    char line[256];
    FILE *file = fopen("/proc/partitions", "r");
    while (file && fgets(line, sizeof line, file)) {
        if (sscanf(line, "%d %d", &major, &minor) != 2) continue;
        if ((error = opens_node(S_IFBLK, major, minor, path)) == 0) return 0;
    }
    return error;
}
PROBE(mknod_device) {
    unlink("/tmp/probe-node");
    int result = succeeded(mknod("/tmp/probe-node", S_IFBLK | 0600, makedev(8, 0)));
    unlink("/tmp/probe-node");
    return result;
}
PROBE(open_disk_in_root) { return open_disk("/tmp/probe-disk"); }
PROBE(open_disk_in_dev) { return open_disk("/dev/probe-disk"); }
PROBE(open_disk_in_shm) { return open_disk("/dev/shm/probe-disk"); }
PROBE(open_made_mem) { return opens_node(S_IFCHR, 1, 1, "/tmp/probe-mem"); }
PROBE(open_made_kmsg) { return opens_node(S_IFCHR, 1, 11, "/tmp/probe-kmsg"); }
PROBE(open_made_fuse) { return opens_node(S_IFCHR, 10, 229, "/tmp/probe-fuse"); }
PROBE(open_made_kvm) { return opens_node(S_IFCHR, 10, 232, "/tmp/probe-kvm"); }
PROBE(open_memory_devices) {
    static const char *const paths[] = {"/dev/mem", "/dev/kmem", "/dev/port", 0};
    return any_opens(paths, O_RDONLY);
}
PROBE(open_kmsg) { return opens("/dev/kmsg", O_RDONLY); }
PROBE(open_other_devices) {
    static const char *const paths[] = {"/dev/fuse", "/dev/kvm", "/dev/loop-control", "/dev/mapper/control",
        "/dev/net/tun", "/dev/vhost-net", "/dev/uinput", "/dev/hwrng", "/dev/tty0", "/dev/console", 0};
    return any_opens(paths, O_RDWR);
}
PROBE(push_to_terminal) {
    int fd = open("/dev/tty", O_RDWR | O_NONBLOCK);
    char byte = ' ';
    return fd < 0 ? errno : succeeded(ioctl(fd, 0x5412, &byte));
}

/* The kernel. */
PROBE(bpf) { return reached(syscall(SYS_bpf, 0, 0, 0)); }
PROBE(perf_event_open) {
    char attributes[128] = {0};
    attributes[4] = sizeof attributes;
    return reached(syscall(SYS_perf_event_open, attributes, 0, -1, -1, 0));
}
PROBE(userfaultfd) { return reached(syscall(SYS_userfaultfd, 0)); }
PROBE(keyctl) { return reached(syscall(SYS_keyctl, 0, -5, 0, 0, 0)); }
PROBE(add_key) { return reached(syscall(SYS_add_key, "user", "rbuild-probe", "x", 1, -2)); }
PROBE(request_key) { return reached(syscall(SYS_request_key, "user", "rbuild-probe", 0, 0)); }
PROBE(io_uring_setup) {
    char parameters[256] = {0};
    return reached(syscall(CALL_io_uring_setup, 1, parameters));
}
PROBE(kexec_load) { return reached(syscall(SYS_kexec_load, 0, 0, 0, ~0L)); }
PROBE(kexec_file_load) { return reached(syscall(SYS_kexec_file_load, -1, -1, 0, 0, ~0L)); }
PROBE(init_module) { return reached(syscall(SYS_init_module, 0, 0, "")); }
PROBE(finit_module) { return reached(syscall(SYS_finit_module, -1, "", 0)); }
PROBE(delete_module) { return reached(syscall(SYS_delete_module, "rbuild-no-such-module", O_NONBLOCK)); }
PROBE(reboot) { return reached(syscall(SYS_reboot, 0, 0, 0, 0)); }
PROBE(settimeofday_call) { return reached(syscall(SYS_settimeofday, 0, 0)); }
PROBE(clock_settime_call) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    return reached(syscall(SYS_clock_settime, CLOCK_REALTIME, &now));
}
PROBE(adjtimex_set) {
    struct timex change = {.modes = ADJ_TICK, .tick = -1};
    return reached(adjtimex(&change));
}
PROBE(adjtimex_read) {
    struct timex state = {0};
    return succeeded(adjtimex(&state));
}
PROBE(sethostname_call) { return succeeded(sethostname("rbuild-probe", 12)); }
PROBE(setdomainname_call) { return succeeded(setdomainname("rbuild-probe", 12)); }
PROBE(read_kernel_log) {
    char text[64];
    return reached(syscall(SYS_syslog, 3, text, sizeof text));
}
PROBE(vhangup_call) { return reached(syscall(SYS_vhangup)); }
PROBE(personality_no_random) { return succeeded(personality(0x40000)); }
PROBE(personality_query) { return succeeded(personality(0xffffffff)); }
PROBE(lookup_dcookie) {
#ifdef SYS_lookup_dcookie
    char path[64];
    return reached(syscall(SYS_lookup_dcookie, 0L, path, sizeof path));
#else
    return ENOSYS;
#endif
}
PROBE(nfsservctl) {
#ifdef SYS_nfsservctl
    return reached(syscall(SYS_nfsservctl, 0, 0, 0));
#else
    return ENOSYS;
#endif
}
PROBE(ioperm_call) {
#ifdef SYS_ioperm
    return reached(syscall(SYS_ioperm, 0x80, 1, 1));
#else
    return ENOSYS;
#endif
}
PROBE(iopl_call) {
#ifdef SYS_iopl
    return reached(syscall(SYS_iopl, 3));
#else
    return ENOSYS;
#endif
}
PROBE(modify_ldt) {
#ifdef SYS_modify_ldt
    char table[64];
    return reached(syscall(SYS_modify_ldt, 0, table, sizeof table));
#else
    return ENOSYS;
#endif
}
PROBE(uselib) {
#ifdef SYS_uselib
    return reached(syscall(SYS_uselib, "/nonexistent"));
#else
    return ENOSYS;
#endif
}
PROBE(ustat_call) {
#ifdef SYS_ustat
    return reached(syscall(SYS_ustat, 0, 0));
#else
    return ENOSYS;
#endif
}
PROBE(sysfs_call) {
#ifdef SYS_sysfs
    return reached(syscall(SYS_sysfs, 3));
#else
    return ENOSYS;
#endif
}
PROBE(move_pages) { return reached(syscall(SYS_move_pages, 0, 0, 0, 0, 0, 0)); }
PROBE(mbind) { return reached(syscall(SYS_mbind, 0, 0, 0, 0, 0, 0)); }
PROBE(other_call_table) {
#ifdef __x86_64__
    /* getpid of x32. */
    return reached(syscall(0x40000000 + 39));
#else
    return ENOSYS;
#endif
}
PROBE(call_of_32_bits) {
#ifdef __x86_64__
    long result;
    /* getpid of i386. */
    __asm__ volatile("int $0x80" : "=a"(result) : "a"(20L) : "memory", "r8", "r9", "r10", "r11");
    return result > 0 ? 0 : (int)-result;
#else
    return ENOSYS;
#endif
}
PROBE(real_time_scheduling) {
    struct sched_param parameters = {.sched_priority = 1};
    return reached(syscall(SYS_sched_setscheduler, 0, SCHED_FIFO, &parameters));
}
/* Back to what it was: the tests themselves may run with a raised one. */
PROBE(raise_priority) {
    int lowest = 19, now = getpriority(PRIO_PROCESS, 0), lower = now < lowest ? now + 1 : lowest;
    setpriority(PRIO_PROCESS, 0, lower);
    return succeeded(setpriority(PRIO_PROCESS, 0, lower - 1));
}
PROBE(raise_limits) {
    struct rlimit limit;
    getrlimit(RLIMIT_NOFILE, &limit);
    limit.rlim_max++;
    return succeeded(setrlimit(RLIMIT_NOFILE, &limit));
}

/* Sockets. */
static int opens_socket(int family, int type, int protocol) { return succeeded(socket(family, type, protocol)); }
PROBE(raw_socket) { return opens_socket(AF_INET, SOCK_RAW, IPPROTO_ICMP); }
PROBE(packet_socket) { return opens_socket(AF_PACKET, SOCK_RAW, 0); }
PROBE(vsock) { return opens_socket(40, SOCK_STREAM, 0); }
PROBE(alg_socket) { return opens_socket(38, SOCK_SEQPACKET, 0); }
PROBE(alg_socket_upper_half) { return succeeded(syscall(SYS_socket, (1L << 32) + 38, SOCK_SEQPACKET, 0)); }
PROBE(alg_socketpair) {
    int ends[2];
    return succeeded(socketpair(38, SOCK_SEQPACKET, 0, ends));
}
PROBE(xdp_socket) { return opens_socket(44, SOCK_RAW, 0); }
PROBE(key_socket) { return opens_socket(15, SOCK_RAW, 2); }
PROBE(netlink_route) { return opens_socket(AF_NETLINK, SOCK_RAW, 0); }
PROBE(netlink_audit_read) {
    int fd = socket(AF_NETLINK, SOCK_RAW, 9);
    struct { unsigned short family, pad; unsigned pid, groups; } address = {AF_NETLINK, 0, 0, 1};
    return fd < 0 ? errno : succeeded(bind(fd, (void *)&address, sizeof address));
}
PROBE(netlink_firewall) {
    /* NFNL_MSG_BATCH_BEGIN for nftables: permission is looked at first. */
    int fd = socket(AF_NETLINK, SOCK_RAW, 12);
    struct { unsigned length; unsigned short type, flags; unsigned sequence, pid; unsigned char family, version; unsigned short table; }
        message = {20, (10 << 8) | 1, 5, 1, 0, 0, 0, 0};
    struct { int length; short type; short flags; unsigned sequence, pid; int error; } answer;
    if (fd < 0) return errno;
    if (send(fd, &message, sizeof message, 0) < 0) return errno;
    if (recv(fd, &answer, sizeof answer, MSG_DONTWAIT) < (long)sizeof answer) return errno;
    return answer.error == -EPERM ? EPERM : 0;
}
PROBE(configure_network) {
    int fd = socket(AF_INET, SOCK_DGRAM, 0);
    struct ifreq request = {.ifr_name = "lo"};
    if (fd < 0 || ioctl(fd, 0x8921, &request)) return errno;
    return succeeded(ioctl(fd, 0x8922, &request));
}
PROBE(host_loopback) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(number("PROBE_PORT"))};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    return fd < 0 ? errno : succeeded(connect(fd, (void *)&address, sizeof address));
}
static socklen_t abstract(struct sockaddr_un *address, const char *name) {
    address->sun_family = AF_UNIX;
    address->sun_path[0] = 0;
    strncpy(address->sun_path + 1, name, sizeof address->sun_path - 2);
    return offsetof(struct sockaddr_un, sun_path) + 1 + strlen(name);
}
PROBE(host_abstract_socket) {
    struct sockaddr_un address;
    socklen_t length = abstract(&address, getenv("PROBE_SOCKET") ? getenv("PROBE_SOCKET") : "rbuild-probe-none");
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    return fd < 0 ? errno : succeeded(connect(fd, (void *)&address, length));
}
PROBE(daemon_sockets) {
    static const char *const paths[] = {"/run/docker.sock", "/var/run/docker.sock", "/run/containerd/containerd.sock",
        "/run/dbus/system_bus_socket", "/run/systemd/private", 0};
    int error = ENOENT;
    for (int i = 0; paths[i]; i++) {
        struct sockaddr_un address = {.sun_family = AF_UNIX};
        strncpy(address.sun_path, paths[i], sizeof address.sun_path - 1);
        int fd = socket(AF_UNIX, SOCK_STREAM, 0);
        if ((error = succeeded(connect(fd, (void *)&address, sizeof address))) == 0) return 0;
    }
    return error;
}

/* Privileges. */
PROBE(no_filter) { return status("Seccomp", 10) == 2 ? EPERM : 0; }
PROBE(more_capabilities_bounding) { return status("CapBnd", 16) & ~DEFAULT_CAPABILITIES ? 0 : EPERM; }
PROBE(more_capabilities_effective) {
    return (status("CapEff", 16) | status("CapPrm", 16)) & ~DEFAULT_CAPABILITIES ? 0 : EPERM;
}
PROBE(capabilities_inherited) { return status("CapInh", 16) | status("CapAmb", 16) ? 0 : EPERM; }
PROBE(take_sys_admin) {
    unsigned header[2] = {0x20080522, 0}, data[6];
    if (syscall(SYS_capget, header, data)) return errno;
    data[0] |= 1u << 21;
    data[1] |= 1u << 21;
    return succeeded(syscall(SYS_capset, header, data));
}
PROBE(setuid_programs) {
    /* A copy of this program with the setuid bit, started by another user: its status is 0 if it is root. */
    char buffer[65536];
    long count;
    int from = open("/proc/self/exe", O_RDONLY), to = open("/tmp/probe-setuid", O_WRONLY | O_CREAT | O_TRUNC, 0755);
    if (from < 0 || to < 0) return errno;
    while ((count = read(from, buffer, sizeof buffer)) > 0)
        if (write(to, buffer, count) != count) return errno;
    close(to);
    if (chmod("/tmp/probe-setuid", 04755)) return errno;
    pid_t child = fork();
    if (child == 0) {
        if (setgid(1000) || setuid(1000)) _exit(errno);
        execl("/tmp/probe-setuid", "probes", "am-i-root", (char *)0);
        _exit(errno);
    }
    int ended = 0;
    waitpid(child, &ended, 0);
    unlink("/tmp/probe-setuid");
    return WEXITSTATUS(ended);
}

static const struct { const char *name; probe_fn *run; const char *what; } probes[] = {
    {"leaked-descriptors", leaked_descriptors, "descriptors beyond the standard streams"},
    {"host-processes", host_processes, "a process of the machine in /proc"},
    {"signal-host", signal_host, "kill() of a process of the machine"},
    {"ptrace-host", ptrace_host, "ptrace() of a process of the machine"},
    {"vm-read-host", vm_read_host, "process_vm_readv() of a process of the machine"},
    {"pidfd-host", pidfd_host, "pidfd_open() of a process of the machine"},
    {"ptrace-child", ptrace_child, "ptrace() of a child"},
    {"vm-read-own", vm_read_own, "process_vm_readv() of itself"},
    {"pidfd-getfd", pidfd_getfd, "pidfd_getfd() of itself"},
    {"process-madvise", process_madvise, "process_madvise() of itself"},
    {"kcmp", kcmp, "kcmp()"},
    {"root-of-init", root_of_init, "/proc/1/root leading elsewhere"},
    {"init-cwd-outside", init_cwd_outside, "a working directory outside the root"},
    {"overwrite-init-program", overwrite_init_program, "writing to /proc/1/exe of the machine"},
    {"host-pid-namespace", host_pid_namespace, "the machine's pid namespace"},
    {"host-uts-namespace", host_uts_namespace, "the machine's uts namespace"},
    {"host-ipc-namespace", host_ipc_namespace, "the machine's ipc namespace"},
    {"host-cgroup-namespace", host_cgroup_namespace, "the machine's cgroup namespace"},
    {"write-core-pattern", write_core_pattern, "/proc/sys/kernel/core_pattern for writing"},
    {"write-modprobe", write_modprobe, "/proc/sys/kernel/modprobe for writing"},
    {"write-kernel-knobs", write_kernel_knobs, "knobs in /proc/sys/{kernel,vm,fs} for writing"},
    {"write-net-knobs", write_net_knobs, "knobs in /proc/sys/net for writing"},
    {"write-own-hostname-knob", write_own_hostname_knob, "/proc/sys/kernel/hostname for writing"},
    {"register-binfmt", register_binfmt, "/proc/sys/fs/binfmt_misc/register for writing"},
    {"write-sysrq-trigger", write_sysrq_trigger, "/proc/sysrq-trigger for writing"},
    {"write-irq", write_irq, "/proc/irq for writing"},
    {"write-mtrr", write_mtrr, "/proc/mtrr for writing"},
    {"read-kcore", read_kcore, "content of /proc/kcore"},
    {"read-keys", read_keys, "content of /proc/keys"},
    {"read-kmsg", read_kmsg, "/proc/kmsg"},
    {"read-timer-list", read_timer_list, "content of /proc/timer_list"},
    {"read-interrupts", read_interrupts, "content of /proc/interrupts"},
    {"read-sched-debug", read_sched_debug, "content of /proc/sched_debug"},
    {"read-latency-stats", read_latency_stats, "content of /proc/latency_stats"},
    {"list-acpi", list_acpi, "entries of /proc/acpi"},
    {"list-scsi", list_scsi, "entries of /proc/scsi"},
    {"read-kpagemap", read_kpagemap, "content of /proc/kpageflags and the like"},
    {"kernel-addresses", kernel_addresses, "addresses in /proc/kallsyms"},
    {"physical-addresses", physical_addresses, "frame numbers in /proc/self/pagemap"},
    {"shield-from-oom", shield_from_oom, "oom_score_adj of -1000"},
    {"write-sys", write_sys, "files of /sys for writing"},
    {"list-firmware", list_firmware, "entries of /sys/firmware"},
    {"list-powercap", list_powercap, "entries of /sys/devices/virtual/powercap"},
    {"list-debugfs", list_debugfs, "entries of /sys/kernel/debug"},
    {"list-tracefs", list_tracefs, "entries of /sys/kernel/tracing"},
    {"list-securityfs", list_securityfs, "entries of /sys/kernel/security"},
    {"list-bpffs", list_bpffs, "entries of /sys/fs/bpf"},
    {"write-release-agent", write_release_agent, "release_agent of a cgroup for writing"},
    {"write-devices-allow", write_devices_allow, "devices.allow of a cgroup for writing"},
    {"join-cgroup", join_cgroup, "cgroup.procs for writing"},
    {"make-cgroup", make_cgroup, "mkdir() in /sys/fs/cgroup"},
    {"mount-tmpfs", mount_tmpfs, "mount() of a tmpfs"},
    {"mount-proc", mount_proc, "mount() of another /proc"},
    {"mount-cgroup", mount_cgroup, "mount() of a cgroup hierarchy"},
    {"remount-proc-sys", remount_proc_sys, "mount() that makes /proc/sys writable"},
    {"bind-mount", bind_mount, "mount() of /proc elsewhere, without its masks"},
    {"unmask", unmask, "umount2() of what hides kernel files"},
    {"new-mount-api", new_mount_api, "fsopen()"},
    {"open-tree", open_tree, "open_tree() with a copy"},
    {"mount-setattr", mount_setattr, "mount_setattr()"},
    {"listmount", listmount, "listmount()"},
    {"statmount", statmount, "statmount()"},
    {"pivot-root", pivot_root, "pivot_root()"},
    {"unshare-user", unshare_user, "unshare(CLONE_NEWUSER)"},
    {"unshare-mount", unshare_mount, "unshare(CLONE_NEWNS)"},
    {"unshare-net", unshare_net, "unshare(CLONE_NEWNET)"},
    {"unshare-pid", unshare_pid, "unshare(CLONE_NEWPID)"},
    {"clone-user", clone_user, "clone(CLONE_NEWUSER)"},
    {"clone3-user", clone3_user, "clone3(CLONE_NEWUSER)"},
    {"setns-of-init", setns_of_init, "setns() to namespaces of process 1"},
    {"file-handle-of", file_handle_of, "name_to_handle_at()"},
    {"open-by-handle", open_by_handle, "open_by_handle_at()"},
    {"chroot-call", chroot_call, "chroot()"},
    {"chroot-escape", chroot_escape, "leaving the root by chroot() in a chroot()"},
    {"fanotify-init", fanotify_init, "fanotify_init()"},
    {"quotactl", quotactl, "quotactl()"},
    {"quotactl-fd", quotactl_fd, "quotactl_fd()"},
    {"acct", acct_call, "acct()"},
    {"swapon", swapon_call, "swapon()"},
    {"swapoff", swapoff_call, "swapoff()"},
    {"mknod-device", mknod_device, "mknod() of a block device"},
    {"open-disk-in-root", open_disk_in_root, "opening a disk's new node in the root file system"},
    {"open-disk-in-dev", open_disk_in_dev, "opening a disk's new node in /dev"},
    {"open-disk-in-shm", open_disk_in_shm, "opening a disk's new node in /dev/shm"},
    {"open-made-mem", open_made_mem, "opening a new node of /dev/mem"},
    {"open-made-kmsg", open_made_kmsg, "opening a new node of /dev/kmsg"},
    {"open-made-fuse", open_made_fuse, "opening a new node of /dev/fuse"},
    {"open-made-kvm", open_made_kvm, "opening a new node of /dev/kvm"},
    {"open-memory-devices", open_memory_devices, "/dev/mem, /dev/kmem, /dev/port"},
    {"open-kmsg", open_kmsg, "/dev/kmsg"},
    {"open-other-devices", open_other_devices, "/dev/fuse, /dev/kvm, /dev/net/tun, loop devices and others"},
    {"push-to-terminal", push_to_terminal, "TIOCSTI on the controlling terminal"},
    {"bpf", bpf, "bpf()"},
    {"perf-event-open", perf_event_open, "perf_event_open()"},
    {"userfaultfd", userfaultfd, "userfaultfd()"},
    {"keyctl", keyctl, "keyctl()"},
    {"add-key", add_key, "add_key()"},
    {"request-key", request_key, "request_key()"},
    {"io-uring-setup", io_uring_setup, "io_uring_setup()"},
    {"kexec-load", kexec_load, "kexec_load()"},
    {"kexec-file-load", kexec_file_load, "kexec_file_load()"},
    {"init-module", init_module, "init_module()"},
    {"finit-module", finit_module, "finit_module()"},
    {"delete-module", delete_module, "delete_module()"},
    {"reboot", reboot, "reboot()"},
    {"settimeofday", settimeofday_call, "settimeofday()"},
    {"clock-settime", clock_settime_call, "clock_settime()"},
    {"adjtimex-set", adjtimex_set, "adjtimex() that changes"},
    {"adjtimex-read", adjtimex_read, "adjtimex() that reads"},
    {"sethostname", sethostname_call, "sethostname()"},
    {"setdomainname", setdomainname_call, "setdomainname()"},
    {"read-kernel-log", read_kernel_log, "syslog() that reads the kernel's messages"},
    {"vhangup", vhangup_call, "vhangup()"},
    {"personality-no-random", personality_no_random, "personality(ADDR_NO_RANDOMIZE)"},
    {"personality-query", personality_query, "personality() that asks"},
    {"lookup-dcookie", lookup_dcookie, "lookup_dcookie()"},
    {"nfsservctl", nfsservctl, "nfsservctl()"},
    {"ioperm", ioperm_call, "ioperm()"},
    {"iopl", iopl_call, "iopl()"},
    {"modify-ldt", modify_ldt, "modify_ldt()"},
    {"uselib", uselib, "uselib()"},
    {"ustat", ustat_call, "ustat()"},
    {"sysfs", sysfs_call, "sysfs()"},
    {"move-pages", move_pages, "move_pages()"},
    {"mbind", mbind, "mbind()"},
    {"other-call-table", other_call_table, "a system call of the x32 table"},
    {"call-of-32-bits", call_of_32_bits, "a system call of 32-bit programs"},
    {"real-time-scheduling", real_time_scheduling, "sched_setscheduler(SCHED_FIFO)"},
    {"raise-priority", raise_priority, "a negative nice value"},
    {"raise-limits", raise_limits, "a hard limit of more open files"},
    {"raw-socket", raw_socket, "a raw socket"},
    {"packet-socket", packet_socket, "a packet socket"},
    {"vsock", vsock, "an AF_VSOCK socket"},
    {"alg-socket", alg_socket, "an AF_ALG socket"},
    {"alg-socket-upper-half", alg_socket_upper_half, "an AF_ALG socket, with a bit that the kernel ignores"},
    {"alg-socketpair", alg_socketpair, "a pair of AF_ALG sockets"},
    {"xdp-socket", xdp_socket, "an AF_XDP socket"},
    {"key-socket", key_socket, "an AF_KEY socket"},
    {"netlink-route", netlink_route, "a routing netlink socket"},
    {"netlink-audit-read", netlink_audit_read, "reading the audit log by netlink"},
    {"netlink-firewall", netlink_firewall, "a change of nftables by netlink"},
    {"configure-network", configure_network, "setting the MTU of lo to what it is"},
    {"host-loopback", host_loopback, "a TCP service on the machine's loopback"},
    {"host-abstract-socket", host_abstract_socket, "an abstract socket of the machine"},
    {"daemon-sockets", daemon_sockets, "sockets of the machine's daemons in /run"},
    {"no-filter", no_filter, "running without a system call filter"},
    {"more-capabilities-bounding", more_capabilities_bounding, "a bounding set beyond Docker's default capabilities"},
    {"more-capabilities-effective", more_capabilities_effective, "capabilities beyond Docker's default"},
    {"capabilities-inherited", capabilities_inherited, "inheritable or ambient capabilities"},
    {"take-sys-admin", take_sys_admin, "capset() with CAP_SYS_ADMIN"},
    {"setuid-programs", setuid_programs, "becoming root by a setuid program"},
};
#define COUNT (sizeof probes / sizeof *probes)

/* Each call in a process of its own: 0 is allowed, above 128 the signal that ended it. */
static int apart(probe_fn *probe, long call) {
    pid_t child = fork();
    if (child == 0) {
        alarm(10);
        if (probe) _exit(probe());
        errno = 0;
        syscall(call, -1L, -1L, -1L, -1L, -1L, -1L);
        _exit(errno);
    }
    int ended = 0;
    while (waitpid(child, &ended, 0) < 0 && errno == EINTR) {}
    return WIFSIGNALED(ended) ? 128 + WTERMSIG(ended) : WEXITSTATUS(ended);
}

static int skipped(long call) {
    /* Those that only wait, or end the process. */
    return call == SYS_rt_sigreturn || call == SYS_exit || call == SYS_exit_group || call == SYS_rt_sigsuspend
#ifdef SYS_pause
        || call == SYS_pause || call == SYS_vfork || call == SYS_fork
#endif
        || call == SYS_clone || call == SYS_kill || call == SYS_tkill || call == SYS_tgkill;
}

static int serve(void) {
    struct sockaddr_in address = {.sin_family = AF_INET};
    struct sockaddr_un local;
    socklen_t length = sizeof address;
    char name[64];
    snprintf(name, sizeof name, "rbuild-probe-%d", getpid());
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int tcp = socket(AF_INET, SOCK_STREAM, 0), unix_socket = socket(AF_UNIX, SOCK_STREAM, 0);
    if (bind(tcp, (void *)&address, sizeof address) || listen(tcp, 64)) return 1;
    if (bind(unix_socket, (void *)&local, abstract(&local, name)) || listen(unix_socket, 64)) return 1;
    getsockname(tcp, (void *)&address, &length);
    printf("PROBE_PID=%d PROBE_PORT=%d PROBE_SOCKET=%s\n", getpid(), ntohs(address.sin_port), name);
    fflush(stdout);
    for (;;) pause();
}

int main(int count, char **words) {
    const char *verb = count > 1 ? words[1] : "";
    if (!strcmp(verb, "serve")) return serve();
    if (!strcmp(verb, "am-i-root")) return geteuid() == 0 ? 0 : EPERM;
    for (long call = 0; !strcmp(verb, "syscalls") && call < 470; call++)
        if (!skipped(call)) { printf("%ld %d\n", call, apart(0, call)); fflush(stdout); }
    if (!strcmp(verb, "syscalls")) return 0;
    for (size_t i = 0; i < COUNT; i++) {
        if (!strcmp(verb, "list")) {
            printf("%s %s\n", probes[i].name, probes[i].what);
            continue;
        }
        int error = apart(probes[i].run, 0);
        if (error > 128) printf("%s denied signal %d\n", probes[i].name, error - 128);
        else printf("%s %s %d\n", probes[i].name, error ? "denied" : "allowed", error);
        fflush(stdout);
    }
    return 0;
}
