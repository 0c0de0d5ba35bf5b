/* What stays the same when names change: working directories and open directories that are moved and
 * removed meanwhile. Prints the same on every kernel. */
#define _GNU_SOURCE
#include "check.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static const char BASE[] = "/tmp/names";

static long make(int directory, const char *name)
{
    int fd = openat(directory, name, O_WRONLY | O_CREAT | O_EXCL, 0600);
    return fd < 0 ? -errno : close(fd);
}

static void check_here(const char *what, const char *wanted)
{
    char path[256];
    if (getcwd(path, sizeof path) == NULL)
        return check(what, -errno, 0);
    if (strcmp(path, wanted) != 0) {
        printf("%s: %s instead of %s\n", what, path, wanted);
        failed = 1;
    }
}

static void a_working_directory_that_moves(void)
{
    chdir(BASE);
    mkdir("a", 0700);
    mkdir("other", 0700);
    check("a mark", make(AT_FDCWD, "other/mark"), 0);
    chdir("a");
    check("rename it", answer(rename("/tmp/names/a", "/tmp/names/b")), 0);
    check("make a file there", make(AT_FDCWD, "f"), 0);
    check("it is in the new place", answer(access("/tmp/names/b/f", F_OK)), 0);
    check_here("its new name", "/tmp/names/b");
    check("move it", answer(rename("/tmp/names/b", "/tmp/names/other/c")), 0);
    check("what is above it", answer(access("../mark", F_OK)), 0);
    check_here("its last name", "/tmp/names/other/c");
    check("into itself", answer(rename("/tmp/names/other", "../../other/c/d")), -EINVAL);
    check("remove the file", answer(unlink("f")), 0);
}

static void a_working_directory_that_is_removed(void)
{
    chdir("/tmp/names/other/c");
    check("remove it", answer(rmdir("/tmp/names/other/c")), 0);
    check("it has no name", getcwd((char[256]){ 0 }, 256) == NULL ? errno : 0, ENOENT);
    check("nor can one be made there", make(AT_FDCWD, "f"), -ENOENT);
    check("nor a directory", answer(mkdir("d", 0700)), -ENOENT);
    check("it is still one", answer(chdir(".")), 0);
    check("with one above it", answer(chdir("..")), 0);
    check_here("that one", "/tmp/names/other");
    check("remove the mark", answer(unlink("mark")), 0);
    check("what is no name", answer(rmdir(".")), -EINVAL);
    check("remove what is above", answer(rmdir("..")), -ENOTEMPTY);
    check("rename what is here", answer(rename(".", "../x")), -EBUSY);
    check("unlink what is here", answer(unlink(".")), -EISDIR);
    check("make what is here", answer(mkdir(".", 0700)), -EEXIST);
    chdir(BASE);
    check("remove it, too", answer(rmdir("other")), 0);
}

static void an_open_directory_that_moves(void)
{
    struct stat facts;
    chdir(BASE);
    mkdir("a", 0700);
    int fd = open("a", O_RDONLY | O_DIRECTORY);
    check("rename it", answer(rename("a", "b")), 0);
    check("another of its name", answer(mkdir("a", 0700)), 0);
    check("with a file", make(AT_FDCWD, "a/x"), 0);
    check("which is not in the first", answer(openat(fd, "x", O_RDONLY)), -ENOENT);
    check("make one in the first", make(fd, "y"), 0);
    check("it is there", answer(access("b/y", F_OK)), 0);
    check("go there", answer(fchdir(fd)), 0);
    check_here("its name", "/tmp/names/b");
    check("remove what is in it", answer(unlinkat(fd, "y", 0)), 0);
    mkdir("/tmp/names/empty", 0700);
    check("replace an empty one", answer(rename("/tmp/names/b", "/tmp/names/empty")), 0);
    check_here("its last name", "/tmp/names/empty");
    check("remove it", answer(rmdir("/tmp/names/empty")), 0);
    check("no link is left", fstat(fd, &facts) == 0 ? (long)facts.st_nlink : -errno, 0);
    check("nor a place for a file", make(fd, "z"), -ENOENT);
    close(fd);
    chdir(BASE);
    unlink("a/x");
    check("remove the other", answer(rmdir("a")), 0);
}

int main(void)
{
    if (mkdir(BASE, 0700) != 0)
        return 2;
    a_working_directory_that_moves();
    a_working_directory_that_is_removed();
    an_open_directory_that_moves();
    chdir("/");
    check("nothing is left", answer(rmdir(BASE)), 0);
    printf("names: %s\n", failed ? "FAILED" : "ok");
    return failed;
}
