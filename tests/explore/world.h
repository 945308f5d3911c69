/* What the scenarios share: participants, channels between them, and what the host writes. */
#ifndef WSLX_EXPLORE_WORLD_H
#define WSLX_EXPLORE_WORLD_H

#include "explore.h"
#include "portal/internal.h"

#define CAPACITY 64u /* two records of 24 bytes, and a pad */
#define RECORDS 3u
#define PARTS 4u /* the host, and participants 1 to 3 */

struct world {
	struct portal_header hdr;
	struct portal_control ctl[PARTS];
	struct portal_link links[PARTS];
	struct portal_tx tx[4];
	struct portal_rx rx[4];
	_Alignas(64) uint8_t data[4][CAPACITY];
	struct portal_name names[4];
	uint32_t index[8];
	struct portal_participant parts[PORTAL_MAX_PARTICIPANTS]; /* from PARTS on nobody's */
};

extern struct world m;
extern portal side[PARTS]; /* by participant */
extern portal_chan chan[4];
extern unsigned received;
extern bool over;

void setup_base(void);
/* Channel i: that participant's end, over those blocks. */
void join(unsigned i, portal *p, unsigned peer, uint32_t kind, unsigned mine, unsigned theirs);
void setup_pair_of(uint32_t kind);
void setup_records(void);
/* The host has news for that participant. */
void host_event(unsigned i);
/* The host has seen that participant's end. */
void host_buries(unsigned i);
/* One's own place, as seen by that participant, is another's from now on. */
void place_is_taken(unsigned seen_by, unsigned whose);

int send_one(uint64_t i);
/* From the pair's first to its second. */
int receive_one(void);
/* Keeps at what the host asks for until it is over. */
void linger(unsigned participant);

extern const struct scenario basic_scenarios[], rest_scenarios[], fan_scenarios[], door_scenarios[], handle_scenarios[];

#endif
