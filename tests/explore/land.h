/* A segment for each participant, with its control area and its heap. */
#ifndef WSLX_EXPLORE_LAND_H
#define WSLX_EXPLORE_LAND_H

#include "world.h"

#define USED_CHUNKS 4u /* of a heap, at most, from the first one on */

extern uint8_t land[PARTS][PORTAL_SEGMENT_SIZE];

void setup_land_of(unsigned participant);

#endif
