/* What the machine can do, for comparison: the least work that each scenario cannot do without.
 *
 *   limits sandbox N DIR   N times: namespaces, overlay, /proc, tmpfs on /dev, pivot_root, sh -c true, wait
 *   limits walk DIR        walk and stat on as many threads as there are processors
 *   limits null            do nothing: what starting a process costs
 *
 * DIR of `sandbox` is a root file system with /bin/sh. Build: cc -O2 -pthread -o limits limits.c
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static void die(const char *what) {
    perror(what);
    exit(1);
}

static int child(void *lower) {
    char options[8192];
    if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL)) die("private");
    snprintf(options, sizeof options, "lowerdir=%s,upperdir=upper,workdir=work,volatile", (char *)lower);
    if (mount("overlay", "root", "overlay", 0, options)) die("overlay");
    if (chdir("root")) die("chdir");
    mkdir("proc", 0755);
    mkdir("dev", 0755);
    if (mount("proc", "proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL)) die("proc");
    if (mount("tmpfs", "dev", "tmpfs", MS_NOSUID, "mode=755")) die("dev");
    if (syscall(SYS_pivot_root, ".", ".")) die("pivot_root");
    if (umount2(".", MNT_DETACH)) die("umount");
    execl("/bin/sh", "sh", "-c", "true", (char *)NULL);
    die("exec");
    return 1;
}

static void sandbox(int count, char *lower) {
    static char stack[65536];
    char template[] = "/tmp/limits.XXXXXX";
    if (!mkdtemp(template) || chdir(template)) die("mkdtemp");
    for (int n = 0; n < count; n++) {
        mkdir("upper", 0755);
        mkdir("work", 0755);
        mkdir("root", 0755);
        int flags = CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_VFORK | CLONE_VM | SIGCHLD;
        pid_t pid = clone(child, stack + sizeof stack, flags, lower);
        if (pid < 0) die("clone");
        int status;
        if (waitpid(pid, &status, 0) < 0) die("wait");
        if (status) exit(1);
        if (system("rm -rf upper work root")) exit(1);
    }
    chdir("/");
    rmdir(template);
}

#define MOST 200000
static char *queue[MOST];
static int first, last, busy;
static long seen;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t more = PTHREAD_COND_INITIALIZER;

static void visit(const char *dir) {
    int handle = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *stream = handle < 0 ? NULL : fdopendir(handle);
    if (!stream) return;
    struct dirent *entry;
    long count = 0;
    while ((entry = readdir(stream))) {
        struct statx info;
        if (!strcmp(entry->d_name, ".") || !strcmp(entry->d_name, "..")) continue;
        if (statx(handle, entry->d_name, AT_SYMLINK_NOFOLLOW, STATX_BASIC_STATS, &info)) continue;
        count++;
        if (S_ISDIR(info.stx_mode)) {
            char *path;
            if (asprintf(&path, "%s/%s", dir, entry->d_name) < 0) exit(1);
            pthread_mutex_lock(&lock);
            if (last < MOST) queue[last++] = path;
            pthread_cond_signal(&more);
            pthread_mutex_unlock(&lock);
        }
    }
    closedir(stream);
    __atomic_fetch_add(&seen, count, __ATOMIC_RELAXED);
}

static void *worker(void *unused) {
    pthread_mutex_lock(&lock);
    for (;;) {
        while (first == last && busy) pthread_cond_wait(&more, &lock);
        if (first == last) break;
        char *dir = queue[first++];
        busy++;
        pthread_mutex_unlock(&lock);
        visit(dir);
        pthread_mutex_lock(&lock);
        busy--;
        pthread_cond_broadcast(&more);
    }
    pthread_mutex_unlock(&lock);
    return unused;
}

static void walk(char *dir) {
    long count = sysconf(_SC_NPROCESSORS_ONLN);
    pthread_t threads[64];
    queue[last++] = dir;
    if (count > 64) count = 64;
    for (long n = 0; n < count; n++) pthread_create(&threads[n], NULL, worker, NULL);
    for (long n = 0; n < count; n++) pthread_join(threads[n], NULL);
    printf("%ld\n", seen);
}

int main(int argc, char **argv) {
    if (argc == 4 && !strcmp(argv[1], "sandbox")) sandbox(atoi(argv[2]), argv[3]);
    else if (argc == 3 && !strcmp(argv[1], "walk")) walk(argv[2]);
    else if (argc != 2 || strcmp(argv[1], "null")) return 2;
    return 0;
}
