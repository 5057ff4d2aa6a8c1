#include "cli/program.h"

#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "core/error.h"
#include "preload/go.h"
#include "preload/settings.h"

#ifndef PR_SET_SYSCALL_USER_DISPATCH
#define PR_SET_SYSCALL_USER_DISPATCH 59
#endif

#define INTERPRETERS_MAX 4 /* a script's interpreter may be a script */
#define SEGMENTS_MAX 64
#define NOTES_MAX 4096
#define LINE_MAX_LENGTH 256 /* of "#!", as far as the kernel reads */

static bool is_executable(const char *path)
{
    struct stat st;

    return stat(path, &st) == 0 && S_ISREG(st.st_mode) && access(path, X_OK) == 0;
}

static bool exists(const char *path)
{
    struct stat st;

    return stat(path, &st) == 0;
}

static enum program_fitness refuse_execution(const char *path)
{
    struct stat st;

    if (stat(path, &st) == 0 && !S_ISREG(st.st_mode))
        error_set(-EACCES, "%s is not a program", path);
    else
        error_set(-EACCES, "%s cannot be executed: permission denied", path);
    return PROGRAM_NOT_EXECUTABLE;
}

/* As execvp(): a name with a slash is a path, others are looked for in PATH. */
static enum program_fitness locate(const char *name, char *path, size_t size)
{
    const char *directories = getenv("PATH");
    char denied[PATH_MAX] = "";

    if (strchr(name, '/') != NULL) {
        snprintf(path, size, "%s", name);
        if (is_executable(path))
            return PROGRAM_FITS;
        if (exists(path))
            return refuse_execution(path);
        error_set(-ENOENT, "%s: there is no such file", name);
        return PROGRAM_MISSING;
    }
    if (directories == NULL)
        directories = "/bin:/usr/bin";
    for (const char *at = directories; name[0] != '\0'; at++) {
        size_t length = strcspn(at, ":");

        snprintf(path, size, "%.*s%s%s", (int)length, at, length > 0 ? "/" : "", name);
        if (is_executable(path))
            return PROGRAM_FITS;
        if (exists(path) && denied[0] == '\0')
            snprintf(denied, sizeof(denied), "%s", path);
        at += length;
        if (*at == '\0')
            break;
    }
    if (denied[0] != '\0')
        return refuse_execution(denied);
    error_set(-ENOENT, "%s: there is no such program in PATH", name);
    return PROGRAM_MISSING;
}

/* Would the kernel give it other rights than ours? Then the loader preloads nothing. */
static bool changes_rights(const char *path)
{
    struct stat st;
    char capabilities[64];

    if (stat(path, &st) != 0)
        return false;
    if ((st.st_mode & S_ISUID) && st.st_uid != getuid())
        return true;
    if ((st.st_mode & S_ISGID) && (st.st_mode & S_IXGRP) && st.st_gid != getgid())
        return true;
    return getuid() != 0 &&
           getxattr(path, "security.capability", capabilities, sizeof(capabilities)) > 0;
}

static enum program_fitness unfit(const char *path, const char *why)
{
    error_set(-ENOTSUP, "%s cannot be managed: %s", path, why);
    return PROGRAM_UNFIT;
}

static bool is_go(int fd, const Elf64_Phdr *segment)
{
    char notes[NOTES_MAX];
    size_t size = segment->p_filesz < sizeof(notes) ? segment->p_filesz : sizeof(notes);

    return segment->p_type == PT_NOTE &&
           pread(fd, notes, size, (off_t)segment->p_offset) == (ssize_t)size &&
           go_has_note(notes, size);
}

static enum program_fitness examine_elf(const char *path, int fd, const Elf64_Ehdr *header)
{
    Elf64_Phdr segments[SEGMENTS_MAX];
    size_t count = header->e_phnum < SEGMENTS_MAX ? header->e_phnum : SEGMENTS_MAX;
    bool interpreted = false;

    if (header->e_ident[EI_CLASS] != ELFCLASS64 || header->e_machine != EM_X86_64)
        return unfit(path, "it is not a program of this machine's kind (64-bit x86)");
    if (header->e_phentsize != sizeof(segments[0]) ||
        pread(fd, segments, count * sizeof(segments[0]), (off_t)header->e_phoff) !=
            (ssize_t)(count * sizeof(segments[0])))
        return unfit(path, "its header is damaged");
    for (size_t i = 0; i < count; i++) {
        interpreted |= segments[i].p_type == PT_INTERP;
        if (is_go(fd, &segments[i]))
            return unfit(path, GO_REFUSED);
    }
    if (interpreted)
        return PROGRAM_FITS;
    return unfit(path, "it is statically linked, so that no library can be preloaded");
}

/* The interpreter that "#!" names. */
static bool script_interpreter(const char *text, char *interpreter, size_t size)
{
    size_t length;

    if (strncmp(text, "#!", 2) != 0)
        return false;
    text += 2;
    text += strspn(text, " \t");
    length = strcspn(text, " \t\r\n");
    if (length == 0 || length >= size)
        return false;
    memcpy(interpreter, text, length);
    interpreter[length] = '\0';
    return true;
}

/* What is at path; if it is a script, *next is its interpreter. */
static enum program_fitness examine_file(const char *path, char *next, size_t size)
{
    union {
        Elf64_Ehdr elf;
        char text[LINE_MAX_LENGTH + 1];
    } start = {0};
    enum program_fitness fitness;
    int fd;

    next[0] = '\0';
    if (changes_rights(path))
        return unfit(path, "it runs with other rights than yours (set-user-ID, set-group-ID or "
                           "capabilities), and the loader preloads nothing into such programs");
    fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) /* executable, but not readable: it may fit */
        return PROGRAM_FITS;
    if (read(fd, start.text, LINE_MAX_LENGTH) < 0)
        fitness = unfit(path, strerror(errno));
    else if (memcmp(start.elf.e_ident, ELFMAG, SELFMAG) == 0)
        fitness = examine_elf(path, fd, &start.elf);
    else
        fitness = PROGRAM_FITS;
    if (memcmp(start.elf.e_ident, ELFMAG, SELFMAG) != 0 &&
        !script_interpreter(start.text, next, size))
        snprintf(next, size, "/bin/sh"); /* execvp() gives it to the shell */
    close(fd);
    return fitness;
}

enum program_fitness program_examine(const char *name, char *path, size_t size)
{
    enum program_fitness fitness = locate(name, path, size);
    char file[PATH_MAX], next[PATH_MAX];

    snprintf(file, sizeof(file), "%s", path);
    for (int i = 0; i < INTERPRETERS_MAX && fitness == PROGRAM_FITS; i++) {
        fitness = examine_file(file, next, sizeof(next));
        if (next[0] == '\0')
            break;
        if (fitness == PROGRAM_FITS && !is_executable(next)) {
            error_set(-ENOENT, "%s: its interpreter %s cannot be executed", name, next);
            return PROGRAM_NOT_EXECUTABLE;
        }
        memcpy(file, next, sizeof(file));
    }
    return fitness;
}

int program_library(char *path, size_t size)
{
    static const char *const places[] = {"", "../lib/", "../lib/vmsm/"};
    char self[PATH_MAX];
    ssize_t length = readlink("/proc/self/exe", self, sizeof(self) - 1);
    char *slash;

    if (length < 0)
        return error_set(-errno, "/proc/self/exe cannot be read: is /proc mounted?");
    self[length] = '\0';
    slash = strrchr(self, '/');
    slash[1] = '\0';
    for (size_t i = 0; i < sizeof(places) / sizeof(places[0]); i++) {
        if ((size_t)snprintf(path, size, "%s%s%s", self, places[i], RUN_LIBRARY) < size &&
            access(path, R_OK) == 0) {
            if (strpbrk(path, " :") != NULL)
                return error_set(-EINVAL,
                                 "%s: the loader can preload no path with a space or a colon; "
                                 "install vmsm elsewhere",
                                 path);
            return 0;
        }
    }
    return error_set(-ENOENT, "%s is neither beside vmsm, in %s, nor in ../lib from there",
                     RUN_LIBRARY, self);
}

/* Switching off what is not on tells whether the kernel has it. */
bool program_can_be_guarded(void)
{
    return prctl(PR_SET_SYSCALL_USER_DISPATCH, 0, 0, 0, 0) == 0;
}
