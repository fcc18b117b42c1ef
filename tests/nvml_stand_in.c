/* A stand-in for NVIDIA's library with the functions, types and codes of its API reference. Devices come from the
   environment: FAKE_NVML="percent total used celsius milliwatts; ..." with -1 for what a device does not support. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SUCCESS = 0, UNINITIALIZED = 1, INVALID_ARGUMENT = 2, NOT_SUPPORTED = 3, DRIVER_NOT_LOADED = 9 };
typedef struct { long long percent, total, used, celsius, milliwatts; } device;
typedef struct { unsigned gpu, memory; } utilization;
typedef struct { unsigned long long total, free, used; } memory;
static device devices[8];
static unsigned count;
static int open_;

int nvmlInit_v2(void) {
    const char *told = getenv("FAKE_NVML");
    count = 0;
    if (!told) return DRIVER_NOT_LOADED;
    while (told && *told && count < 8) {
        device *d = &devices[count];
        if (sscanf(told, "%lld %lld %lld %lld %lld", &d->percent, &d->total, &d->used, &d->celsius, &d->milliwatts) == 5) count++;
        told = strchr(told, ';');
        if (told) told++;
    }
    open_ = 1;
    return SUCCESS;
}
int nvmlShutdown(void) { int was = open_; open_ = 0; return was ? SUCCESS : UNINITIALIZED; }
const char *nvmlErrorString(int code) {
    return code == DRIVER_NOT_LOADED ? "Driver Not Loaded" : code == NOT_SUPPORTED ? "Not Supported" : "Another error";
}
int nvmlDeviceGetCount_v2(unsigned *n) { if (!open_) return UNINITIALIZED; *n = count; return SUCCESS; }
int nvmlDeviceGetHandleByIndex_v2(unsigned i, device **d) {
    if (!open_) return UNINITIALIZED;
    if (i >= count) return INVALID_ARGUMENT;
    *d = &devices[i];
    return SUCCESS;
}
int nvmlDeviceGetName(device *d, char *name, unsigned length) {
    (void)d; snprintf(name, length, "NVIDIA T4"); return SUCCESS;
}
int nvmlDeviceGetUtilizationRates(device *d, utilization *u) {
    if (d->percent < 0) return NOT_SUPPORTED;
    u->gpu = (unsigned)d->percent; u->memory = 1; return SUCCESS;
}
int nvmlDeviceGetMemoryInfo(device *d, memory *m) {
    if (d->total < 0) return NOT_SUPPORTED;
    m->total = (unsigned long long)d->total; m->used = (unsigned long long)d->used; m->free = m->total - m->used;
    return SUCCESS;
}
int nvmlDeviceGetTemperature(device *d, int sensor, unsigned *celsius) {
    if (sensor != 0) return INVALID_ARGUMENT;
    if (d->celsius < 0) return NOT_SUPPORTED;
    *celsius = (unsigned)d->celsius; return SUCCESS;
}
int nvmlDeviceGetPowerUsage(device *d, unsigned *milliwatts) {
    if (d->milliwatts < 0) return NOT_SUPPORTED;
    *milliwatts = (unsigned)d->milliwatts; return SUCCESS;
}
