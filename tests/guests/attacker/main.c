/* What the attacker does before its first call, and how it speaks with the platform. */
#include "attacker.h"
#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdarg.h>
#include <strings.h>
#include <time.h>

#define BASE "/2018-06-01/runtime"

char call_id[64];
bool has_answered;
int wire = -1;
static char answer[900 << 10];
static size_t answer_bytes;

void say(const char *format, ...) {
    va_list list;
    va_start(list, format);
    int more = vsnprintf(answer + answer_bytes, sizeof answer - answer_bytes, format, list);
    va_end(list);
    answer_bytes += more;
    if (answer_bytes >= sizeof answer) answer_bytes = sizeof answer - 1;
}

void told(const char *what, long result) {
    const char *name = result == -1 ? strerrorname_np(errno) : "ok";
    say("%s: %s\n", what, name ? name : "unknown");
}

char *word(char **arguments) {
    char *found = *arguments ? strsep(arguments, " ") : NULL;
    if (!found || !*found) {
        fprintf(stderr, "attacker: a word is missing\n");
        exit(99);
    }
    return found;
}

long number(char **arguments) { return atol(word(arguments)); }

void sleep_ms(long ms) {
    struct timespec time = {ms / 1000, ms % 1000 * 1000000};
    while (nanosleep(&time, &time)) {}
}

long now_ms(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * 1000 + time.tv_nsec / 1000000;
}

int api_connect(void) {
    const char *api = getenv("AWS_LAMBDA_RUNTIME_API");
    char host[64] = "";
    int port = 0, one = 1;
    if (!api || sscanf(api, "%63[^:]:%d", host, &port) != 2) return -1;
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port)};
    inet_pton(AF_INET, host, &address.sin_addr);
    int made = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (made < 0) return -1;
    if (connect(made, (struct sockaddr *)&address, sizeof address)) {
        close(made);
        return -1;
    }
    setsockopt(made, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    return made;
}

static bool write_all(int fd, const char *bytes, size_t count) {
    while (count > 0) {
        ssize_t done = send(fd, bytes, count, MSG_NOSIGNAL);
        if (done < 0 && errno == EINTR) continue;
        if (done <= 0) return false;
        bytes += done;
        count -= done;
    }
    return true;
}

bool api_send(int fd, const char *method, const char *path, const char *body, size_t bytes) {
    char head[512];
    int count = snprintf(head, sizeof head, "%s " BASE "%s HTTP/1.1\r\nHost: api\r\nContent-Length: %zu\r\n\r\n",
                         method, path, bytes);
    return write_all(fd, head, count) && write_all(fd, body, bytes);
}

/* The value of a header, or null. */
static const char *header(const char *head, const char *name) {
    for (const char *line = strstr(head, "\r\n"); line; line = strstr(line, "\r\n")) {
        line += 2;
        if (!strncasecmp(line, name, strlen(name)) && line[strlen(name)] == ':') {
            return line + strlen(name) + 1 + strspn(line + strlen(name) + 1, " ");
        }
    }
    return NULL;
}

int api_read(int fd, char *body, size_t room, size_t *bytes) {
    static char head[1100 << 10];
    size_t at = 0;
    char *end = NULL;
    while (!end && at < sizeof head - 1) {
        ssize_t got = recv(fd, head + at, sizeof head - 1 - at, 0);
        if (got <= 0) return -1;
        head[at += got] = 0;
        end = strstr(head, "\r\n\r\n");
    }
    if (!end) return -1;
    end += 4;
    const char *length = header(head, "Content-Length"), *id = header(head, "Lambda-Runtime-Aws-Request-Id");
    size_t wanted = length ? strtoul(length, NULL, 10) : 0, have = head + at - end;
    if (id) sscanf(id, "%63[^\r]", call_id);
    if (have > wanted) have = wanted;
    *bytes = have < room ? have : room;
    memcpy(body, end, *bytes);
    while (have < wanted) {
        char more[4096];
        ssize_t got = recv(fd, more, sizeof more < wanted - have ? sizeof more : wanted - have, 0);
        if (got <= 0) return -1;
        for (ssize_t i = 0; i < got && *bytes < room; i++) body[(*bytes)++] = more[i];
        have += got;
    }
    int status = 0;
    sscanf(head, "HTTP/1.1 %d", &status);
    return status;
}

const char *api_response(void) {
    static char path[128];
    snprintf(path, sizeof path, "/invocation/%s/response", call_id);
    return path;
}

void run(char *payload) {
    const struct attack *tables[] = {KERNEL, FILES, PROCESSES, RESOURCES, NETWORK, API};
    char *name = word(&payload);
    for (size_t table = 0; table < sizeof tables / sizeof *tables; table++) {
        for (const struct attack *attack = tables[table]; attack->name; attack++) {
            if (!strcmp(attack->name, name)) return attack->run(payload);
        }
    }
    say("no attack %s\n", name);
}

void serve(void) {
    static char payload[64 << 10];
    for (;;) {
        char ignored[256];
        size_t bytes;
        if (wire < 0 && (wire = api_connect()) < 0) exit(98);
        if (!api_send(wire, "GET", "/invocation/next", "", 0)) exit(97);
        if (api_read(wire, payload, sizeof payload - 1, &bytes) != 200) exit(96);
        payload[bytes] = 0;
        answer_bytes = 0;
        has_answered = false;
        run(payload);
        if (has_answered) continue;
        if (!api_send(wire, "POST", api_response(), answer, answer_bytes)) exit(95);
        if (api_read(wire, ignored, sizeof ignored, &bytes) != 202) exit(94);
    }
}

/* Attacks on the time before the first call, by the program's argument. */
static void begin(const char *how) {
    size_t bytes;
    static char large[10 << 20];
    if (!strcmp(how, "crash")) raise(SIGSEGV);
    if (!strcmp(how, "exit")) exit(3);
    if (!strcmp(how, "hang")) for (;;) pause();
    if (!strcmp(how, "deaf")) {
        signal(SIGTERM, SIG_IGN);
        for (;;) pause();
    }
    if (!strcmp(how, "syscall")) syscall(SYS_ptrace, 0, 0, 0, 0);
    if (!strcmp(how, "error")) {
        /* Ten megabytes, and then as if nothing had been. */
        memset(large, 'e', sizeof large);
        wire = api_connect();
        api_send(wire, "POST", "/init/error", large, sizeof large);
        api_read(wire, large, sizeof large, &bytes);
        for (;;) pause();
    }
    if (!strcmp(how, "answer")) {
        /* A result before any call. */
        wire = api_connect();
        api_send(wire, "POST", "/invocation/0123456789abcdef0123456789abcdef/response", "x", 1);
        fprintf(stderr, "early answer: %d\n", api_read(wire, large, sizeof large, &bytes));
    }
    if (!strcmp(how, "bomb")) for (;;) fork();
}

int main(int count, char **words) {
    /* Run by itself as a helper: says as whom. */
    if (count > 1 && !strcmp(words[1], "whoami")) return printf("%d %d\n", getuid(), geteuid()) < 0;
    /* By stdio: the arguments are all of stdin. */
    if (count > 1 && !strcmp(words[1], "stdio")) {
        static char payload[4096];
        ssize_t got = read(0, payload, sizeof payload - 1);
        payload[got < 0 ? 0 : got] = 0;
        run(payload);
        return fwrite(answer, 1, answer_bytes, stdout) != answer_bytes;
    }
    if (count > 1) begin(words[1]);
    serve();
}
