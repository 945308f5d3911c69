/* Who the others are, as the host has written it down. */
#include <errno.h>
#include <stddef.h>
#include <string.h>

#include "portal/atomic.h"
#include "portal/internal.h"

#define LOOKS 1000

int portal_who(portal *p, unsigned participant, uint64_t generation, struct portal_who *ret)
{
	const struct portal_participant *shared;
	struct portal_participant e;

	if (participant >= PORTAL_MAX_PARTICIPANTS)
		return -EINVAL;
	shared = &p->parts[participant];
	/* It is another's between two looks only if one has left and one has come: again. */
	for (unsigned i = 0; i < LOOKS; i++) {
		wslx_portal_words_in(&e, shared, offsetof(struct portal_participant, reserved0));
		if (PORTAL_LOAD_ACQ(&shared->life) != e.life)
			continue;
		if (PORTAL_LIFE_STATE(e.life) != PORTAL_PART_LIVE ||
		    (generation && PORTAL_LIFE_GENERATION(e.life) != generation))
			return -ENOENT;
		*ret = (struct portal_who) {
			.participant = participant,
			.kind = e.kind,
			.id = e.id,
			.generation = PORTAL_LIFE_GENERATION(e.life),
		};
		memcpy(ret->name, e.name, sizeof(ret->name));
		ret->name[sizeof(ret->name) - 1] = '\0';
		return 0;
	}
	return -EAGAIN;
}

int portal_chan_who(const portal_chan *c, struct portal_who *ret)
{
	return portal_who(c->p, c->peer, c->peer_generation, ret);
}
