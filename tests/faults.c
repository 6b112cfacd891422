/* A disk that fails when told to: preloaded into the node by faults.py, and by nothing else.

   The file that FAULTS names holds one fault a line, `call pattern errno`: that call fails with that errno for every
   path that fits that pattern. An empty file, or none, is a disk in good health. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <fnmatch.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

static int fault(const char *call, const char *path)
{
    char text[1024], *line, *rest = text, name[32], pattern[256];
    const char *control = getenv("FAULTS");
    int number, fd = control ? (int)syscall(SYS_openat, AT_FDCWD, control, O_RDONLY | O_CLOEXEC) : -1;
    if (fd < 0)
        return 0;
    ssize_t count = syscall(SYS_read, fd, text, sizeof text - 1);
    syscall(SYS_close, fd);
    text[count > 0 ? count : 0] = 0;
    while ((line = strsep(&rest, "\n")))
        if (sscanf(line, "%31s %255s %d", name, pattern, &number) == 3 && !strcmp(name, call) && !fnmatch(pattern, path, 0))
            return number;
    return 0;
}

static int fault_of(const char *call, int fd)
{
    char link[64], path[4096];
    int before = errno;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t count = readlink(link, path, sizeof path - 1);
    errno = before;
    if (count <= 0 || path[0] != '/')
        return 0;
    path[count] = 0;
    return fault(call, path);
}

#define NEXT(name) static __typeof__(&name) next; if (!next) next = (__typeof__(&name))dlsym(RTLD_NEXT, #name)
#define FAIL(call, fd) do { int number = fault_of(call, fd); if (number) { errno = number; return -1; } } while (0)

ssize_t write(int fd, const void *data, size_t count) { NEXT(write); FAIL("write", fd); return next(fd, data, count); }

ssize_t pwrite(int fd, const void *data, size_t count, off_t at)
{
    NEXT(pwrite);
    FAIL("write", fd);
    return next(fd, data, count, at);
}

ssize_t pwrite64(int fd, const void *data, size_t count, off64_t at)
{
    NEXT(pwrite64);
    FAIL("write", fd);
    return next(fd, data, count, at);
}

/* A failed sync leaves what was written where it is, in the kernel's memory. */
int fsync(int fd) { NEXT(fsync); FAIL("sync", fd); return next(fd); }
int fdatasync(int fd) { NEXT(fdatasync); FAIL("sync", fd); return next(fd); }
