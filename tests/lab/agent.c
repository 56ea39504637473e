/* SPDX-License-Identifier: Apache-2.0 */
/* Runs commands inside a lab host on behalf of the lab, over a virtio-serial port, so that it
 * works while the host's network is cut.
 *
 * Frames, both ways:  | job u16 | type u8 | 0 u8 | length u32 |  payload...   (little endian)
 *   to the agent:   S start `sh -c PAYLOAD`   I its input   C close its input   K kill it
 *   from the agent: H hello (once)   O output   E errors   X ended, payload = wait status u32 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

enum { JOBS_MAX = 64, CHUNK_SIZE = 32768, HEADER_SIZE = 8, FRAME_SIZE_MAX = 1 << 20 };

struct job {
    uint16_t id;
    pid_t pid; /* 0: slot free */
    int in, out, err;
    int exited, status;
    char *pending; /* input that the command has not read yet */
    size_t pending_size, pending_sent;
    int close_input;
};

static void fail(const char *what) {
    fprintf(stderr, "lab agent: %s: %s\n", what, strerror(errno));
    exit(1);
}

static int port_open(const char *wanted) {
    DIR *dir = opendir("/sys/class/virtio-ports");
    struct dirent *entry;
    char path[512], name[128];
    int fd = -1;

    while (dir && fd < 0 && (entry = readdir(dir))) {
        snprintf(path, sizeof(path), "/sys/class/virtio-ports/%s/name", entry->d_name);
        FILE *f = fopen(path, "re");
        if (f && fgets(name, sizeof(name), f) && strcmp(strtok(name, "\n"), wanted) == 0) {
            snprintf(path, sizeof(path), "/dev/%s", entry->d_name);
            fd = open(path, O_RDWR | O_CLOEXEC);
        }
        if (f) {
            fclose(f);
        }
    }
    if (dir) {
        closedir(dir);
    }
    return fd;
}

static void write_all(int fd, const char *data, size_t size) {
    while (size > 0) {
        ssize_t n = write(fd, data, size);
        if (n < 0 && errno != EINTR) {
            fail("port");
        }
        if (n > 0) {
            data += n;
            size -= (size_t)n;
        }
    }
}

static int read_all(int fd, char *data, size_t size) {
    while (size > 0) {
        ssize_t n = read(fd, data, size);
        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n <= 0) {
            return -1;
        }
        data += n;
        size -= (size_t)n;
    }
    return 0;
}

static void send_frame(int port, uint16_t id, char type, const char *data, uint32_t size) {
    static char frame[HEADER_SIZE + CHUNK_SIZE];
    memcpy(frame, &id, 2);
    frame[2] = type;
    frame[3] = 0;
    memcpy(frame + 4, &size, 4);
    memcpy(frame + HEADER_SIZE, data, size);
    write_all(port, frame, HEADER_SIZE + size);
}

static void close_fd(int *fd) {
    if (*fd >= 0) {
        close(*fd);
        *fd = -1;
    }
}

static void job_start(struct job *job, uint16_t id, const char *command) {
    int in[2], out[2], err[2];

    if (pipe2(in, O_CLOEXEC) || pipe2(out, O_CLOEXEC) || pipe2(err, O_CLOEXEC)) {
        fail("pipe");
    }
    memset(job, 0, sizeof(*job));
    job->id = id;
    job->pid = fork();
    if (job->pid < 0) {
        fail("fork");
    }
    if (job->pid == 0) {
        setsid();
        dup2(in[0], 0);
        dup2(out[1], 1);
        dup2(err[1], 2);
        signal(SIGPIPE, SIG_DFL);
        execl("/bin/sh", "sh", "-c", command, (char *)NULL);
        _exit(127);
    }
    close(in[0]);
    close(out[1]);
    close(err[1]);
    job->in = in[1];
    job->out = out[0];
    job->err = err[0];
    fcntl(job->in, F_SETFL, O_NONBLOCK);
}

static void job_add_input(struct job *job, const char *data, size_t size) {
    char *grown = realloc(job->pending, job->pending_size + size);
    if (!grown) {
        fail("input");
    }
    memcpy(grown + job->pending_size, data, size);
    job->pending = grown;
    job->pending_size += size;
}

static void job_write_input(struct job *job) {
    while (job->in >= 0 && job->pending_sent < job->pending_size) {
        ssize_t n = write(job->in, job->pending + job->pending_sent,
                          job->pending_size - job->pending_sent);
        if (n < 0 && errno == EAGAIN) {
            return;
        }
        if (n < 0) { /* the command reads no more: drop the rest */
            close_fd(&job->in);
            return;
        }
        job->pending_sent += (size_t)n;
    }
    free(job->pending);
    job->pending = NULL;
    job->pending_size = job->pending_sent = 0;
    if (job->close_input) {
        close_fd(&job->in);
    }
}

static void job_read_output(int port, struct job *job, int *fd, char type) {
    static char data[CHUNK_SIZE];
    ssize_t n = read(*fd, data, sizeof(data));
    if (n > 0) {
        send_frame(port, job->id, type, data, (uint32_t)n);
    } else if (n == 0 || errno != EINTR) {
        close_fd(fd);
    }
}

/* A command has ended when its process has; what it left running may hold its output open. */
static void job_finish(int port, struct job *job) {
    struct pollfd more[2] = {{.fd = job->out, .events = POLLIN}, {.fd = job->err, .events = POLLIN}};
    while (poll(more, 2, 0) > 0 && ((more[0].revents | more[1].revents) & POLLIN)) {
        if (more[0].revents & POLLIN) {
            job_read_output(port, job, &job->out, 'O');
        }
        if (more[1].revents & POLLIN) {
            job_read_output(port, job, &job->err, 'E');
        }
        more[0].fd = job->out;
        more[1].fd = job->err;
    }
    uint32_t status = (uint32_t)job->status;
    send_frame(port, job->id, 'X', (char *)&status, sizeof(status));
    close_fd(&job->in);
    close_fd(&job->out);
    close_fd(&job->err);
    free(job->pending);
    job->pid = 0;
}

static struct job *job_find(struct job *jobs, uint16_t id, int free_slot) {
    for (int i = 0; i < JOBS_MAX; i++) {
        if (free_slot ? jobs[i].pid == 0 : jobs[i].pid != 0 && jobs[i].id == id) {
            return &jobs[i];
        }
    }
    return NULL;
}

static void handle_frame(int port, struct job *jobs) {
    char header[HEADER_SIZE];
    uint16_t id;
    uint32_t size;

    if (read_all(port, header, sizeof(header)) < 0) {
        usleep(100000); /* nobody is connected outside */
        return;
    }
    memcpy(&id, header, 2);
    memcpy(&size, header + 4, 4);
    char *data = size <= FRAME_SIZE_MAX ? calloc(1, size + 1) : NULL;
    if (!data || read_all(port, data, size) < 0) {
        fail("frame");
    }
    struct job *job = job_find(jobs, id, header[2] == 'S');
    if (header[2] == 'S' && !job) {
        uint32_t status = 126 << 8;
        send_frame(port, id, 'X', (char *)&status, sizeof(status));
    } else if (header[2] == 'S') {
        job_start(job, id, data);
    } else if (job && header[2] == 'I') {
        job_add_input(job, data, size);
        job_write_input(job);
    } else if (job && header[2] == 'C') {
        job->close_input = 1;
        job_write_input(job);
    } else if (job && header[2] == 'K') {
        kill(-job->pid, SIGKILL);
    }
    free(data);
}

static void reap(int port, struct job *jobs) {
    int status;
    pid_t pid;

    while ((pid = waitpid(-1, &status, WNOHANG)) > 0) {
        for (int i = 0; i < JOBS_MAX; i++) {
            if (jobs[i].pid == pid) {
                jobs[i].status = status;
                job_finish(port, &jobs[i]);
            }
        }
    }
}

static void on_child(int number) {
    (void)number;
}

int main(int argc, char **argv) {
    static struct job jobs[JOBS_MAX];
    struct pollfd fds[1 + 3 * JOBS_MAX];
    sigset_t blocked, open;
    int port;

    if (argc != 2) {
        fprintf(stderr, "usage: agent PORT-NAME\n");
        return 2;
    }
    while ((port = port_open(argv[1])) < 0) {
        usleep(50000);
    }
    signal(SIGPIPE, SIG_IGN);
    sigaction(SIGCHLD, &(struct sigaction){.sa_handler = on_child}, NULL);
    sigemptyset(&open);
    sigemptyset(&blocked);
    sigaddset(&blocked, SIGCHLD);
    sigprocmask(SIG_BLOCK, &blocked, NULL);
    send_frame(port, 0, 'H', "", 0);
    for (;;) {
        fds[0] = (struct pollfd){.fd = port, .events = POLLIN};
        for (int i = 0; i < JOBS_MAX; i++) {
            struct job *job = &jobs[i];
            int used = job->pid != 0;
            int waiting = used && job->pending_size > job->pending_sent;
            fds[1 + 3 * i] = (struct pollfd){.fd = used ? job->out : -1, .events = POLLIN};
            fds[2 + 3 * i] = (struct pollfd){.fd = used ? job->err : -1, .events = POLLIN};
            fds[3 + 3 * i] = (struct pollfd){.fd = waiting ? job->in : -1, .events = POLLOUT};
        }
        int ready = ppoll(fds, 1 + 3 * JOBS_MAX, NULL, &open);
        for (int i = 0; ready > 0 && i < JOBS_MAX; i++) {
            if (fds[1 + 3 * i].revents) {
                job_read_output(port, &jobs[i], &jobs[i].out, 'O');
            }
            if (fds[2 + 3 * i].revents) {
                job_read_output(port, &jobs[i], &jobs[i].err, 'E');
            }
            if (fds[3 + 3 * i].revents) {
                job_write_input(&jobs[i]);
            }
        }
        reap(port, jobs);
        if (ready > 0 && (fds[0].revents & POLLIN)) {
            handle_frame(port, jobs);
        } else if (ready > 0 && (fds[0].revents & POLLHUP)) {
            usleep(100000);
        }
    }
}
