/* Makes every call with every pair of arguments from lists of hostile ones.
 *
 * hostile DIRECTORY: makes those about files, and works there;
 * hostile other: makes all others; both fail if an answer is neither a result nor an error number.
 * hostile race PATH: reads a file again and again; fails if it ever says "secret".
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#define MOST 32
#define PAGE 4096UL
#define KERNEL 0xffff800000000000UL
/* Descriptors: a file, a directory, both ends of a pipe, zeros; one that is closed; the report. */
enum { FILE_FD = 10, DIR_FD, READ_FD, WRITE_FD, ZERO_FD, LINK_FD, FREE = 20, CLOSED = 800, REPORT = 900 };

typedef unsigned long word;

/* What an argument is: the first of its list is harmless. */
struct list {
    char kind;
    int count;
    word values[MOST];
};

#define LIST(kind, ...) \
    { kind, sizeof((word[]){ __VA_ARGS__ }) / sizeof(word), { __VA_ARGS__ } }

static struct list lists[] = {
    LIST('f', FILE_FD, DIR_FD, READ_FD, WRITE_FD, ZERO_FD, LINK_FD, 0, CLOSED, -1, (word)AT_FDCWD,
              INT_MIN, 1UL << 31, 1UL << 32 | FILE_FD, ~0UL >> 1),
    LIST('d', (word)AT_FDCWD, DIR_FD, FILE_FD, READ_FD, ZERO_FD, LINK_FD, CLOSED, -1, INT_MIN,
              1UL << 32 | DIR_FD, ~0UL >> 1),
    LIST('n', 16, 0, 1, PAGE, 1 << 20, 1UL << 31, 1UL << 32, ~0UL >> 1, ~0UL),
    LIST('o', 0, 1, -1, 1UL << 40, ~0UL >> 1, 1UL << 63),
    LIST('c', 2, 0, 4, 1024, 1025, 1UL << 31, 1UL << 32, ~0UL),
    LIST('g', 0, 1, 2, O_CREAT, O_CREAT | O_EXCL | O_RDWR, O_DIRECTORY, O_NOFOLLOW, O_PATH,
              O_TRUNC | O_WRONLY, AT_SYMLINK_NOFOLLOW, AT_REMOVEDIR, AT_EMPTY_PATH, O_TMPFILE, ~0UL),
    LIST('m', 0644, 0, 07777, ~0UL),
    LIST('k', F_GETFD, F_DUPFD, F_SETFD, F_GETFL, F_SETFL, F_GETLK, F_SETLK, F_SETLKW,
              F_DUPFD_CLOEXEC, 77, ~0UL),
    LIST('r', FREE, CLOSED, REPORT - 1),
    LIST('s', 0, 1, 2, 3, 4, ~0UL),
    LIST('l', PAGE, 0, 1, PAGE + 1, 1 << 20, 1UL << 31, 1UL << 46, 1UL << 47, ~0UL, -PAGE),
    LIST('P', PROT_READ | PROT_WRITE, PROT_NONE, PROT_READ, 7, 8, ~0UL),
    LIST('F', MAP_PRIVATE | MAP_ANONYMOUS, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED,
              MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, MAP_PRIVATE, MAP_SHARED,
              MAP_SHARED | MAP_ANONYMOUS, MAP_PRIVATE | MAP_FIXED, 0, ~0UL),
    LIST('M', 0, MREMAP_MAYMOVE, MREMAP_FIXED, MREMAP_MAYMOVE | MREMAP_FIXED, 4, ~0UL),
    LIST('v', MADV_NORMAL, MADV_DONTNEED, MADV_FREE, MADV_WILLNEED, 99, ~0UL),
    /* What arch_prctl knows and leaves the C library in peace by: the base of GS, and to ask. */
    LIST('A', 0x1004, 0x1003, 0x1001, 77, ~0UL),
    LIST('x', 1, 0, 2, 7, 8, 15, 16, 64, 65, 1000, -1, 1UL << 31, ~0UL >> 1, 1UL << 32 | 1),
    LIST('S', 0, SIGCHLD, SIGURG, 65, -1, 1UL << 32, 1UL << 63),
    LIST('U', FUTEX_WAKE, FUTEX_WAIT, FUTEX_WAIT_BITSET, FUTEX_WAKE | FUTEX_PRIVATE_FLAG, 77, ~0UL),
    LIST('C', PR_SET_NAME, PR_GET_NAME, PR_SET_DUMPABLE, -1),
    { .kind = 'a' },
    { .kind = 't' },
    { .kind = 'b' },
    { .kind = 'B' },
    { .kind = 'p' },
    { .kind = 'i' },
};

struct call {
    const char *name;
    int number;
    /* A kind for each argument; 'z': a time of 0; '0': 0. A 'B' must be writable for success. */
    const char *kinds;
};

#define CALL(name, kinds) { #name, SYS_##name, kinds }
static const struct call about_files[] = {
    /* While the directory is empty: others make names in it that nobody knows. */
    CALL(rmdir, "p"),
    CALL(access, "pm"), CALL(chdir, "p"), CALL(chmod, "pm"), CALL(chown, "pmm"), CALL(close, "f"),
    CALL(close_range, "rrg"), CALL(creat, "pm"), CALL(dup, "f"), CALL(dup2, "ff"), CALL(dup3, "ffg"),
    CALL(faccessat, "dpm"), CALL(faccessat2, "dpmg"), CALL(fadvise64, "foos"), CALL(fchdir, "f"),
    CALL(fchmod, "fm"), CALL(fchmodat, "dpm"), CALL(fchown, "fmm"), CALL(fchownat, "dpmmg"),
    CALL(fcntl, "fkn"), CALL(fdatasync, "f"), CALL(fstat, "fB"), CALL(fstatfs, "fB"),
    CALL(fsync, "f"), CALL(ftruncate, "fo"), CALL(getcwd, "bn"), CALL(getdents64, "fbn"),
    CALL(ioctl, "fnb"), CALL(lchown, "pmm"), CALL(link, "pp"), CALL(linkat, "dpdpg"),
    CALL(lseek, "fos"), CALL(lstat, "pB"), CALL(mkdir, "pm"), CALL(mkdirat, "dpm"),
    CALL(newfstatat, "dpBg"), CALL(open, "pgm"), CALL(openat, "dpgm"), CALL(pipe, "B"),
    CALL(pipe2, "Bg"), CALL(poll, "bn0"), CALL(ppoll, "bnzbn"), CALL(pread64, "fbno"),
    CALL(preadv, "fico0"), CALL(pselect6, "nbbbzb"), CALL(pwrite64, "fbno"), CALL(pwritev, "fico0"),
    CALL(read, "fbn"), CALL(readlink, "pbn"), CALL(readlinkat, "dpbn"), CALL(readv, "fic"),
    CALL(rename, "pp"), CALL(renameat, "dpdp"), CALL(renameat2, "dpdpg"),
    CALL(select, "nbbbz"), CALL(stat, "pB"), CALL(statfs, "pB"), CALL(statx, "dpgmB"),
    CALL(symlink, "pp"), CALL(symlinkat, "pdp"), CALL(truncate, "po"), CALL(umask, "m"),
    CALL(unlink, "p"), CALL(unlinkat, "dpg"), CALL(utimensat, "dpbg"), CALL(write, "fbn"),
    CALL(writev, "fic"), { 0 },
};

static const struct call others[] = {
    CALL(arch_prctl, "Ab"), CALL(brk, "a"), CALL(clock_getres, "xb"), CALL(clock_gettime, "xB"),
    CALL(clock_nanosleep, "xxtb"), CALL(futex, "bUxtbx"), CALL(getegid, "x"), CALL(geteuid, "x"),
    CALL(getgid, "x"), CALL(getgroups, "xb"), CALL(getpgid, "x"), CALL(getpgrp, "x"),
    CALL(getpid, "x"), CALL(getppid, "x"), CALL(getrandom, "bnx"), CALL(getrlimit, "xB"),
    CALL(getsid, "x"), CALL(gettid, "x"), CALL(gettimeofday, "bb"), CALL(getuid, "x"),
    CALL(kill, "xS"), CALL(madvise, "alv"), CALL(mmap, "alPFfo"), CALL(mprotect, "alP"),
    CALL(mremap, "allMa"), CALL(munmap, "al"), CALL(nanosleep, "tb"), CALL(prctl, "Cbxxx"),
    CALL(prlimit64, "xxbb"), CALL(rt_sigaction, "xbbx"), CALL(rt_sigprocmask, "xbbx"),
    CALL(sched_getaffinity, "xnB"), CALL(sched_yield, "x"), CALL(set_robust_list, "bn"),
    CALL(set_tid_address, "b"), CALL(setgid, "x"), CALL(setuid, "x"), CALL(sigaltstack, "bb"),
    CALL(sysinfo, "B"), CALL(tgkill, "xxS"), CALL(time, "b"), CALL(tkill, "xS"), CALL(uname, "B"),
    { 0 },
};

static const char *home;
static word zero_time[2];
static char *scratch, *edge;
static struct iovec weird[1024];
static long made, worked, wrong;

static struct list *list_of(char kind)
{
    for (unsigned i = 0; i < sizeof lists / sizeof *lists; i++)
        if (lists[i].kind == kind)
            return &lists[i];
    return NULL;
}

static void add(char kind, const void *value)
{
    struct list *list = list_of(kind);

    if (list->count < MOST)
        list->values[list->count++] = (word)value;
}

static void addresses(const char *kinds)
{
    const void *bad[] = { NULL, (void *)1, (void *)KERNEL, (void *)~0UL, (void *)(~0UL - 8),
                          (void *)0x7ffffffffff8, (void *)addresses, edge - 4, edge + 8 };

    for (; *kinds; kinds++)
        for (unsigned i = 0; i < sizeof bad / sizeof *bad; i++)
            add(*kinds, bad[i]);
}

/* Fills the lists, and memory with what they point to. */
static void prepare(void)
{
    static char many[5000], name[300];
    static const char *const paths[] = {
        "file", "", "/", ".", "..", "../../../../../../etc/passwd", "dir", "file/", "loop", "loop/x",
        "up/../..", "/proc/self/fd/0", "/proc/self/fd/10/../..", "/proc/self/fd/-1", "/proc/self/exe",
        "/proc/self/maps", "/dev/full", "new", "\xff\n", many, name,
    };
    /* Room in the middle of nothing. */
    char *nothing = mmap(NULL, 8 << 20, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

    scratch = nothing + (2 << 20);
    edge = scratch + (2 << 20);
    mprotect(scratch, 2 << 20, PROT_READ | PROT_WRITE);
    memset(many, 'a', sizeof many - 1);
    memset(name, 'b', sizeof name - 1);
    /* A string without an end. */
    memset(edge - PAGE, 'c', PAGE);
    for (unsigned i = 0; i < sizeof weird / sizeof *weird; i++) {
        const word starts[] = { (word)scratch, 0, KERNEL, ~0UL, (word)edge - 4 };
        const word lengths[] = { 8, 0, ~0UL, 1UL << 31, 16 };
        weird[i] = (struct iovec){ (void *)starts[i % 5], lengths[i / 5 % 5] };
    }
    static struct iovec fine[1024];
    for (unsigned i = 0; i < 1024; i++)
        fine[i] = (struct iovec){ scratch + 8 * i, 8 };
    add('b', scratch);
    add('B', scratch);
    for (unsigned i = 0; i < sizeof paths / sizeof *paths; i++)
        add('p', paths[i]);
    add('p', edge - 3);
    /* Memory that may come and go, far from all else. */
    const word other = 0x600000000000UL, areas[] = {
        other, other + 1, other + PAGE, 0, KERNEL, -PAGE, -1, 0x7f0000000000UL, 0x7fffffff0000UL,
        1UL << 47,
    };
    for (unsigned i = 0; i < sizeof areas / sizeof *areas; i++)
        add('a', (void *)areas[i]);
    const void *times[] = { zero_time, NULL, (void *)1, (void *)KERNEL, (void *)~0UL, edge - 4 };
    for (unsigned i = 0; i < sizeof times / sizeof *times; i++)
        add('t', times[i]);
    add('i', fine);
    add('i', weird);
    addresses("bBpi");
}

/* Makes what the calls work on, whatever the last ones have left. */
static void renew(void)
{
    static const char *const left[] = { "file", "new", "dir/file", "dir/new", "dir/loop", "dir/up",
                                        "dir/dir", "dir/\xff\n" };
    int pipes[2], fd;

    mmap((void *)0x600000000000UL, 2 << 20, PROT_READ | PROT_WRITE,
         MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    close_range(3, REPORT - 1, 0);
    umask(022);
    chdir("/");
    mkdir(home, 0755);
    if (chdir(home)) {
        dprintf(REPORT, "%s: %s\n", home, strerror(errno));
        exit(2);
    }
    for (unsigned i = 0; i < sizeof left / sizeof *left; i++) {
        unlink(left[i]);
        rmdir(left[i]);
    }
    mkdir("dir", 0755);
    symlink("loop", "loop");
    symlink("..", "up");
    pipe2(pipes, O_NONBLOCK);
    dup2(pipes[0], READ_FD);
    dup2(pipes[1], WRITE_FD);
    fd = open("file", O_CREAT | O_RDWR | O_TRUNC, 0644);
    write(fd, "some text to be read\n", 21);
    lseek(fd, 0, SEEK_SET);
    dup2(fd, FILE_FD);
    dup2(open("dir", O_RDONLY | O_DIRECTORY), DIR_FD);
    dup2(open("/dev/zero", O_RDWR), ZERO_FD);
    dup2(open("loop", O_PATH | O_NOFOLLOW), LINK_FD);
    close_range(3, FILE_FD - 1, 0);
    memset(scratch, 0, PAGE);
}

static void once(const struct call *call, const word *arguments)
{
    long result;
    int may_work = 1;

    /* Not through libc, which keeps error numbers to itself. */
    register word r10 __asm__("r10") = arguments[3];
    register word r8 __asm__("r8") = arguments[4];
    register word r9 __asm__("r9") = arguments[5];
    __asm__ volatile("syscall" : "=a"(result)
                     : "a"((word)call->number), "D"(arguments[0]), "S"(arguments[1]),
                       "d"(arguments[2]), "r"(r10), "r"(r8), "r"(r9)
                     : "rcx", "r11", "memory");
    made++;
    worked += result >= 0;
    for (int i = 0; call->kinds[i]; i++)
        if (call->kinds[i] == 'B' && arguments[i] != (word)scratch)
            may_work = 0;
    /* An unknown operation of futex is what no kernel has. */
    if (result == -ENOSYS && call->number == SYS_futex)
        return;
    if (result < -4095 || result == -ENOSYS || (result >= 0 && !may_work)) {
        wrong++;
        dprintf(REPORT, "%s(%#lx, %#lx, %#lx, %#lx, %#lx, %#lx) = %ld\n", call->name, arguments[0],
                arguments[1], arguments[2], arguments[3], arguments[4], arguments[5], result);
    }
    if (result >= FREE && result < REPORT)
        close(result);
}

static word harmless(char kind)
{
    return kind == 'z' ? (word)zero_time : kind == '0' ? 0 : list_of(kind)->values[0];
}

/* Varies two arguments; for a call with one, that. */
static void vary(const struct call *call, int one, int two)
{
    const struct list *first = list_of(call->kinds[one]), *second = list_of(call->kinds[two]);
    word arguments[6] = { 0 };

    if (!first || !second)
        return;
    for (int i = 0; call->kinds[i]; i++)
        arguments[i] = harmless(call->kinds[i]);
    for (int i = 0; i < first->count; i++) {
        renew();
        for (int j = 0; j < (one == two ? 1 : second->count); j++) {
            arguments[two] = second->values[j];
            arguments[one] = first->values[i];
            once(call, arguments);
        }
    }
}

static int race(const char *path)
{
    int read_inside = 0, failed = 0;

    for (int i = 0; i < 10000; i++) {
        char text[16] = "";
        int fd = open(path, O_RDONLY);

        if (fd < 0) {
            failed++;
            continue;
        }
        read(fd, text, sizeof text - 1);
        close(fd);
        if (strcmp(text, "inside")) {
            printf("read '%s'\n", text);
            return 1;
        }
        read_inside++;
    }
    printf("%d times read, %d times not\n", read_inside, failed);
    return 0;
}

int main(int argc, char **argv)
{
    if (argc > 2 && !strcmp(argv[1], "race"))
        return race(argv[2]);
    int other = argc > 1 && !strcmp(argv[1], "other");
    home = argc > 1 && !other ? argv[1] : "/tmp/home";
    dup2(1, REPORT);
    prepare();
    for (const struct call *call = other ? others : about_files; call->name; call++) {
        int count = strlen(call->kinds);
        long before = worked;

        if (count == 1)
            vary(call, 0, 0);
        for (int one = 0; one < count; one++)
            for (int two = one + 1; two < count; two++)
                vary(call, one, two);
        if (worked == before)
            dprintf(REPORT, "%s never worked\n", call->name);
    }
    dprintf(REPORT, "%ld calls, %ld worked, %ld wrong\n", made, worked, wrong);
    return wrong != 0;
}
