// CPUID, with the registers the host has set.

#include "guest.h"

        start
        single  0, cpuid
