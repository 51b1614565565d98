/* What nvidia-ml-py calls of libnvidia-ml.so.1, answered from the file that NVML_STANDIN names; see __init__.py. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { OK = 0, INVALID = 2, UNSUPPORTED = 3, NOT_FOUND = 6, LOST = 15, WHOLE = 9, MOST = 64 };

typedef struct {
    char fields[WHOLE + 8][96];
    int count;
} Line;
typedef struct {
    char uuid[96];
} Handle;
typedef struct {
    unsigned long long total, free, used;
} Memory;
typedef struct {
    unsigned gpu, memory;
} Use;

static int read_lines(Line *lines) {
    const char *path = getenv("NVML_STANDIN");
    FILE *file = path ? fopen(path, "r") : NULL;
    char text[2048];
    int n = 0;
    if (!file) return 0;
    while (n < MOST && fgets(text, sizeof text, file)) {
        Line *line = &lines[n];
        line->count = 0;
        text[strcspn(text, "\n")] = 0;
        for (char *rest = text, *part; line->count < WHOLE + 8 && (part = strsep(&rest, "|"));)
            snprintf(line->fields[line->count++], 96, "%s", part);
        if (line->count >= 8) n++;
    }
    fclose(file);
    return n;
}

/* The line of a device or of one of its slices. */
static int find(const char *uuid, Line *found, int *slice) {
    static __thread Line lines[MOST];
    int n = read_lines(lines);
    for (int i = 0; i < n; i++)
        for (int k = 0; k < lines[i].count; k = k ? k + 1 : 8)
            if (!strcmp(lines[i].fields[k], uuid)) {
                *found = lines[i];
                *slice = k > 0;
                return strcmp(lines[i].fields[7], "lost") ? OK : LOST;
            }
    return NOT_FOUND;
}

static Handle *handle_of(const char *uuid) { /* handles live as long as the process, as the driver's do */
    static Handle handles[1024];
    static int n = 0;
    for (int i = 0; i < n; i++)
        if (!strcmp(handles[i].uuid, uuid)) return &handles[i];
    snprintf(handles[n].uuid, 96, "%s", uuid);
    return &handles[n++];
}

int nvmlInitWithFlags(unsigned flags) { return getenv("NVML_STANDIN") ? OK : 9; }
int nvmlInit_v2(void) { return nvmlInitWithFlags(0); }
int nvmlShutdown(void) { return OK; }
const char *nvmlErrorString(int code) { return code == LOST ? "GPU is lost" : code == NOT_FOUND ? "Not Found" : "Not Supported"; }
int nvmlSystemGetDriverVersion(char *text, unsigned size) { return snprintf(text, size, "580.65.06"), OK; }

int nvmlDeviceGetCount_v2(unsigned *count) {
    Line lines[MOST];
    *count = (unsigned)read_lines(lines);
    return OK;
}

int nvmlDeviceGetHandleByIndex_v2(unsigned index, Handle **handle) {
    Line lines[MOST];
    if ((int)index >= read_lines(lines)) return INVALID;
    *handle = handle_of(lines[index].fields[0]);
    return strcmp(lines[index].fields[7], "lost") ? OK : LOST;
}

int nvmlDeviceGetHandleByUUID(const char *uuid, Handle **handle) {
    Line line;
    int slice, code = find(uuid, &line, &slice);
    *handle = handle_of(uuid);
    return code;
}

int nvmlDeviceGetUUID(Handle *handle, char *text, unsigned size) { return snprintf(text, size, "%s", handle->uuid), OK; }

int nvmlDeviceGetName(Handle *handle, char *text, unsigned size) {
    Line line;
    int slice, code = find(handle->uuid, &line, &slice);
    if (!code) snprintf(text, size, "%s%s", line.fields[1], slice ? " MIG 1g.10gb" : "");
    return code;
}

int nvmlDeviceGetMigMode(Handle *handle, unsigned *now, unsigned *pending) {
    Line line;
    int slice, code = find(handle->uuid, &line, &slice);
    *now = *pending = !code && line.count > 8;
    return code;
}

int nvmlDeviceGetMaxMigDeviceCount(Handle *handle, unsigned *count) { return *count = 7, OK; }

int nvmlDeviceGetMigDeviceHandleByIndex(Handle *handle, unsigned index, Handle **part) {
    Line line;
    int slice, code = find(handle->uuid, &line, &slice);
    if (code) return code;
    if ((int)index + 8 >= line.count) return NOT_FOUND;
    *part = handle_of(line.fields[8 + index]);
    return OK;
}

int nvmlDeviceGetMemoryInfo(Handle *handle, Memory *memory) {
    Line line;
    int slice, code = find(handle->uuid, &line, &slice);
    if (code) return code;
    memory->used = strtoull(line.fields[2], NULL, 10) << 20;
    memory->total = strtoull(line.fields[3], NULL, 10) << 20;
    memory->free = memory->total - memory->used;
    return OK;
}

static int number(Handle *handle, int field, unsigned *value) {
    Line line;
    int slice, code = find(handle->uuid, &line, &slice);
    if (code || slice) return code ? code : UNSUPPORTED; /* the driver tells no such number of a slice */
    *value = (unsigned)strtoul(line.fields[field], NULL, 10);
    return OK;
}

int nvmlDeviceGetUtilizationRates(Handle *handle, Use *use) { return use->memory = 0, number(handle, 4, &use->gpu); }
int nvmlDeviceGetTemperature(Handle *handle, int sensor, unsigned *celsius) { return number(handle, 5, celsius); }
int nvmlDeviceGetClockInfo(Handle *handle, int clock, unsigned *mhz) { return number(handle, 6, mhz); }
