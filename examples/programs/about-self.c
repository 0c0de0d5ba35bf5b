/* What /proc/self, getrusage and sysinfo say of a program and its memory: sizes that agree, names of what is
 * mapped. Prints the same on every kernel. */
#define _GNU_SOURCE
#include "check.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysinfo.h>
#include <sys/sysmacros.h>
#include <unistd.h>

enum { PAGE = 4096, KIB = 1024, PAGES = 1024 };

static const char NAME[] = "/tmp/about-self";

/* Field `number` of /proc/self/stat, counted from 1 as proc(5) does, or -1. */
static long long stat_field(int number)
{
    char text[1024], *field;
    int fd = open("/proc/self/stat", O_RDONLY);
    ssize_t length = read(fd, text, sizeof text - 1);
    close(fd);
    if (length <= 0)
        return -1;
    text[length] = 0;
    field = strrchr(text, ')');
    for (int at = 2; field && at < number; at++)
        field = strchr(field + 1, ' ');
    return field ? strtoull(field, NULL, 10) : -1;
}

static long long statm_field(int number)
{
    long long fields[7] = { 0 };
    FILE *file = fopen("/proc/self/statm", "r");
    if (!file)
        return -1;
    int found = fscanf(file, "%lld %lld %lld %lld %lld %lld %lld", fields, fields + 1, fields + 2,
                       fields + 3, fields + 4, fields + 5, fields + 6);
    fclose(file);
    return found == 7 ? fields[number] : -1;
}

/* Bytes that a line of /proc/self/status says, or -1. */
static long long status_line(const char *name)
{
    char line[256];
    long long kib = -1;
    FILE *file = fopen("/proc/self/status", "r");
    while (file && fgets(line, sizeof line, file))
        if (strncmp(line, name, strlen(name)) == 0 && line[strlen(name)] == ':')
            kib = strtoll(line + strlen(name) + 1, NULL, 10);
    if (file)
        fclose(file);
    return kib < 0 ? -1 : kib * KIB;
}

struct area {
    unsigned long start, end;
    unsigned long long offset, ino;
    unsigned major, minor;
    char rights[8], name[256];
};

/* The area that holds an address: 1, or 0. */
static int find(const void *at, struct area *area)
{
    char line[512];
    int found = 0;
    FILE *file = fopen("/proc/self/maps", "r");
    while (file && !found && fgets(line, sizeof line, file)) {
        int name = 0;
        sscanf(line, "%lx-%lx %7s %llx %x:%x %llu %n", &area->start, &area->end, area->rights,
               &area->offset, &area->major, &area->minor, &area->ino, &name);
        snprintf(area->name, sizeof area->name, "%s", line + name);
        area->name[strcspn(area->name, "\n")] = 0;
        found = (unsigned long)at >= area->start && (unsigned long)at < area->end;
    }
    if (file)
        fclose(file);
    return found;
}

/* All areas of user memory: their bytes, and how many have a name. */
static long long mapped(const char *name, int *named)
{
    char line[512];
    long long bytes = 0;
    FILE *file = fopen("/proc/self/maps", "r");
    while (file && fgets(line, sizeof line, file)) {
        unsigned long start, end;
        if (sscanf(line, "%lx-%lx", &start, &end) == 2 && (sizeof end == 4 || (long)end > 0))
            bytes += end - start;
        *named += strstr(line, name) != NULL;
    }
    if (file)
        fclose(file);
    return bytes;
}

/* What stands behind the area of an address. */
static void expect_name(const char *what, const void *at, const char *wanted)
{
    struct area area;
    if (!find(at, &area))
        return check(what, 0, 1);
    if (strcmp(area.name, wanted) != 0) {
        printf("%s: '%s' instead of '%s'\n", what, area.name, wanted);
        failed = 1;
    }
}

static void sizes(void)
{
    int stacks = 0;
    /* What reads the files has allocated its buffers. */
    status_line("VmSize");
    long long size = mapped("[stack]", &stacks);
    check("one stack", stacks, 1);
    check("bytes in stat", stat_field(23), size);
    check("pages in statm", statm_field(0), size / PAGE);
    check("kilobytes in status", status_line("VmSize"), size);
    long long resident = status_line("VmRSS");
    char *more = mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    check("more in stat", stat_field(23) - size, PAGES * PAGE);
    check("more in statm", statm_field(0) - size / PAGE, PAGES);
    check("more in status", status_line("VmSize") - size, PAGES * PAGE);
    memset(more, 1, PAGES * PAGE);
    /* Linux counts up to some pages of each CPU later. */
    const long long most = PAGES - 128;
    long long grown = status_line("VmRSS");
    check("it is resident", grown - resident >= most * PAGE && grown - resident < 2 * PAGES * PAGE, 1);
    check("so says stat", stat_field(24) >= most, 1);
    check("so says statm", statm_field(1) >= most, 1);
    check("as anonymous memory", status_line("RssAnon") >= most * PAGE, 1);
    check("it is data", status_line("VmData") >= PAGES * PAGE, 1);
    check("so says statm", statm_field(5) >= PAGES, 1);
    check("there is a stack", status_line("VmStk") > 0, 1);
    munmap(more, PAGES * PAGE);
    check("it is gone", status_line("VmRSS") < grown - most / 2 * PAGE, 1);
    check("what was mapped most", status_line("VmPeak") >= size + PAGES * PAGE, 1);
    check("what was resident most", status_line("VmHWM") >= most * PAGE, 1);
    struct rusage usage;
    check("getrusage", answer(getrusage(RUSAGE_SELF, &usage)), 0);
    check("so says getrusage", usage.ru_maxrss >= most * PAGE / KIB, 1);
    check("getrusage, children", answer(getrusage(RUSAGE_CHILDREN, &usage)), 0);
    check("getrusage, thread", answer(getrusage(RUSAGE_THREAD, &usage)), 0);
    check("getrusage, strange", answer(syscall(SYS_getrusage, 77, &usage)), -EINVAL);
}

static void stack(void)
{
    char here;
    struct area area;
    unsigned long start = stat_field(28);
    check("the stack has an area", find(&here, &area), 1);
    check("it started there", start > (unsigned long)&here && start < area.end, 1);
    expect_name("its name", &here, "[stack]");
    char *other = mmap(NULL, PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_GROWSDOWN, -1, 0);
    expect_name("another that grows has none", other, "");
    munmap(other, PAGE);
    check("threads", stat_field(20), 1);
}

static void names(void)
{
    struct area area;
    struct stat facts;
    char *heap = sbrk(2 * PAGE);
    heap[PAGE] = 1;
    expect_name("the heap", heap + PAGE, "[heap]");
    int fd = open(NAME, O_RDWR | O_CREAT, 0600);
    check("a file", answer(ftruncate(fd, 2 * PAGE)), 0);
    char *file = mmap(NULL, PAGE, PROT_READ, MAP_SHARED, fd, PAGE);
    check("it has an area", find(file, &area), 1);
    fstat(fd, &facts);
    check("its number", area.ino, facts.st_ino);
    check("its device", makedev(area.major, area.minor), facts.st_dev);
    check("its offset", area.offset, PAGE);
    expect_name("its name", file, NAME);
    check("another name", answer(rename(NAME, "/tmp/about-others")), 0);
    expect_name("its other name", file, "/tmp/about-others");
    check("a name of two lines", answer(rename("/tmp/about-others", "/tmp/about\nothers")), 0);
    expect_name("it stands in one", file, "/tmp/about\\012others");
    check("one again", answer(rename("/tmp/about\nothers", "/tmp/about-others")), 0);
    check("no name", answer(unlink("/tmp/about-others")), 0);
    expect_name("its last name", file, "/tmp/about-others (deleted)");
    munmap(file, PAGE);
    close(fd);
    fd = shm_open("/about-self", O_RDWR | O_CREAT, 0600);
    check("a shared file", answer(ftruncate(fd, PAGE)), 0);
    file = mmap(NULL, PAGE, PROT_READ, MAP_SHARED, fd, 0);
    expect_name("its name", file, "/dev/shm/about-self");
    shm_unlink("/about-self");
    munmap(file, PAGE);
    close(fd);
    fd = syscall(SYS_memfd_create, "self", 0);
    check("a file without a name", answer(ftruncate(fd, PAGE)), 0);
    file = mmap(NULL, PAGE, PROT_READ, MAP_SHARED, fd, 0);
    expect_name("what it is called", file, "/memfd:self (deleted)");
    munmap(file, PAGE);
    close(fd);
    file = mmap(NULL, PAGE, PROT_READ, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    expect_name("memory that is shared", file, "/dev/zero (deleted)");
    munmap(file, PAGE);
    char program[256];
    ssize_t length = readlink("/proc/self/exe", program, sizeof program - 1);
    program[length < 0 ? 0 : length] = 0;
    expect_name("the program", (void *)names, program);
    check("it has an area", find((void *)names, &area), 1);
    stat("/proc/self/exe", &facts);
    check("its number", area.ino, facts.st_ino);
#ifdef __x86_64__
    expect_name("the page of old calls", (void *)0xffffffffff600000, "[vsyscall]");
    if (find((void *)0xffffffffff600000, &area))
        check("its rights", strcmp(area.rights, "--xp"), 0);
#endif
}

static void machine(void)
{
    struct sysinfo info;
    check("sysinfo", answer(sysinfo(&info)), 0);
    check("in bytes", info.mem_unit, 1);
    check("of whole pages", (info.totalram | info.freeram) % PAGE, 0);
    check("it has memory", info.totalram >= 16 << 20, 1);
    check("some is free", info.freeram > 0 && info.freeram <= info.totalram, 1);
    unsigned cpu = -1, node = -1;
    check("getcpu", answer(syscall(SYS_getcpu, &cpu, &node, NULL)), 0);
    check("one that is there", cpu < 1024 && node < 1024, 1);
    check("getcpu, nothing asked", answer(syscall(SYS_getcpu, NULL, NULL, NULL)), 0);
    check("prctl, no huge pages", answer(prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0)), 0);
    check("prctl, it says so", answer(prctl(PR_GET_THP_DISABLE, 0, 0, 0, 0)), 1);
    check("prctl, huge pages", answer(prctl(PR_SET_THP_DISABLE, 0, 0, 0, 0)), 0);
    check("prctl, it says so", answer(prctl(PR_GET_THP_DISABLE, 0, 0, 0, 0)), 0);
    check("prctl, huge pages, odd", answer(prctl(PR_SET_THP_DISABLE, 0, 0, 0, 1)), -EINVAL);
    check("prctl, says which, odd", answer(prctl(PR_GET_THP_DISABLE, 0, 1, 0, 0)), -EINVAL);
}

int main(void)
{
    sizes();
    stack();
    names();
    machine();
    printf("about self: %s\n", failed ? "FAILED" : "ok");
    return failed;
}
