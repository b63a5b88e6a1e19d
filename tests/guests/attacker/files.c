/* Files: other places, other people's, and ways around names. */
#include "attacker.h"
#include <dirent.h>
#include <sys/mman.h>

/* write PATH...: makes or changes each. */
static void write_each(char *arguments) {
    while (arguments && *arguments) {
        const char *path = word(&arguments);
        int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0666);
        long result = fd < 0 ? -1 : write(fd, "1", 1);
        told(path, result);
        if (fd >= 0) close(fd);
    }
}

/* read PATH...: opens each and reads a byte, or an entry of a directory. */
static void read_each(char *arguments) {
    while (arguments && *arguments) {
        const char *path = word(&arguments);
        char byte;
        int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
        long result = fd < 0 ? -1 : read(fd, &byte, 1);
        if (result == -1 && errno == EISDIR) {
            DIR *directory = fdopendir(fd);
            int entries = 0;
            while (directory && readdir(directory)) entries++;
            errno = ENOENT;
            result = entries > 2 ? 0 : -1;
            if (directory) closedir(directory);
            fd = -1;
        }
        told(path, result);
        if (fd >= 0) close(fd);
    }
}

/* links PLACE FILE: ways to FILE, which is outside, by names made in PLACE. */
static void links(char *arguments) {
    const char *place = word(&arguments), *file = word(&arguments);
    char path[512], text[512];
    const char *ways[] = {"", "/proc/self/root", "/proc/self/cwd/../../../../../..", "/proc/1/root", "/proc/self/fd/0/../../..",
                          "/dev/fd/0/../..", "/var/task/../../..", "/proc/self/task/../../../.."};
    for (size_t i = 0; i < sizeof ways / sizeof *ways; i++) {
        snprintf(path, sizeof path, "%s/link%zu", place, i);
        snprintf(text, sizeof text, "%s%s", ways[i], file);
        unlink(path);
        if (symlink(text, path)) {
            told("symlink", -1);
            continue;
        }
        int fd = open(path, O_RDONLY);
        told(text, fd);
        if (fd >= 0) close(fd);
    }
    snprintf(path, sizeof path, "%s/hard", place);
    told("hard link", link(file, path));
    snprintf(path, sizeof path, "%s/moved", place);
    told("rename", rename("/var/task/attacker", path));
    told("unlink", unlink("/var/task/attacker"));
    told("truncate", truncate("/var/task/attacker", 0));
    told("chmod", chmod("/var/task/attacker", 04777));
}

/* descriptors: what this process was born with, and what each leads to. */
static void descriptors(char *arguments) {
    (void)arguments;
    for (int fd = 0; fd < 4096; fd++) {
        char path[64], to[256], name[32];
        snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
        ssize_t got = readlink(path, to, sizeof to - 1);
        if (got < 0 || fd == wire) continue;
        to[got] = 0;
        say("%d is %s\n", fd, to);
        /* Through it to a directory above, and again for writing. */
        snprintf(name, sizeof name, "above %d", fd);
        told(name, openat(fd, "..", O_RDONLY | O_DIRECTORY));
    }
    int own = open("/proc/self/exe", O_WRONLY);
    told("own program", own);
    int mapped = memfd_create("x", 0);
    told("write to own program by mapping", mapped < 0 ? -1 : -(long)(mmap(NULL, 4096, PROT_WRITE, MAP_SHARED, open("/proc/self/exe", O_RDONLY), 0) == MAP_FAILED));
}

/* setuid PROGRAM: runs it; it says as whom. */
static void setuid_program(char *arguments) {
    const char *program = word(&arguments);
    struct stat found;
    int pipes[2];
    char text[128] = "";
    if (stat(program, &found) || pipe(pipes)) return told(program, -1);
    say("mode: %o\n", found.st_mode & 07777);
    pid_t pid = fork();
    if (pid == 0) {
        dup2(pipes[1], 1);
        execl(program, program, "whoami", NULL);
        _exit(1);
    }
    close(pipes[1]);
    for (size_t at = 0, got = 1; got > 0 && at < sizeof text - 1; at += got) {
        ssize_t count = read(pipes[0], text + at, sizeof text - 1 - at);
        got = count > 0 ? count : 0;
    }
    waitpid(pid, NULL, 0);
    int real = -1, effective = -1;
    sscanf(text, "%d %d", &real, &effective);
    say("other user: %s\n", effective != (int)getuid() && effective >= 0 ? "ok" : "EPERM");
}

const struct attack FILES[] = {{"write", write_each}, {"read", read_each}, {"links", links}, {"descriptors", descriptors},
                               {"setuid", setuid_program}, {NULL, NULL}};
