/* What some file systems do, for a process that is started with LD_PRELOAD=bad_disk.so:
 *
 *     BAD_DISK_QUOTA=N   the (N+1)th byte that is written ends in EDQUOT, whatever the file
 *     BAD_DISK_FAT=1     there are no hard links, and modes can't be changed (EPERM)
 *
 * Files outside of the folder BAD_DISK are as they are. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <limits.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

static atomic_long written;

static int is_bad(const char *path) {
    const char *folder = getenv("BAD_DISK");
    char whole[PATH_MAX];
    if (folder == NULL || path == NULL)
        return 0;
    if (path[0] == '/')
        snprintf(whole, sizeof whole, "%s", path);
    else if (getcwd(whole, sizeof whole) != NULL)
        snprintf(whole + strlen(whole), sizeof whole - strlen(whole), "/%s", path);
    return strncmp(whole, folder, strlen(folder)) == 0;
}

static int is_fat(const char *path) {
    return getenv("BAD_DISK_FAT") != NULL && is_bad(path);
}

static int is_over(int handle, long more) {
    const char *quota = getenv("BAD_DISK_QUOTA");
    char name[64], path[PATH_MAX];
    if (quota == NULL)
        return 0;
    snprintf(name, sizeof name, "/proc/self/fd/%d", handle);
    ssize_t length = readlink(name, path, sizeof path - 1);
    if (length < 0)
        return 0;
    path[length] = 0;
    return is_bad(path) && atomic_fetch_add(&written, more) + more > atol(quota);
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))
#define FAILS(code) return errno = code, -1

ssize_t write(int handle, const void *content, size_t size) {
    if (is_over(handle, size)) FAILS(EDQUOT);
    return REAL(write)(handle, content, size);
}

ssize_t pwrite64(int handle, const void *content, size_t size, off64_t place) {
    if (is_over(handle, size)) FAILS(EDQUOT);
    return REAL(pwrite64)(handle, content, size, place);
}

ssize_t writev(int handle, const struct iovec *parts, int count) {
    if (is_over(handle, 1)) FAILS(EDQUOT);
    return REAL(writev)(handle, parts, count);
}

int link(const char *old, const char *new) {
    if (is_fat(new)) FAILS(EPERM);
    return REAL(link)(old, new);
}

int linkat(int from, const char *old, int to, const char *new, int flags) {
    if (is_fat(new)) FAILS(EPERM);
    return REAL(linkat)(from, old, to, new, flags);
}

int chmod(const char *path, mode_t mode) {
    if (is_fat(path)) FAILS(EPERM);
    return REAL(chmod)(path, mode);
}

int fchmodat(int from, const char *path, mode_t mode, int flags) {
    if (is_fat(path)) FAILS(EPERM);
    return REAL(fchmodat)(from, path, mode, flags);
}
