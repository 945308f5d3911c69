/* explore [NAME | all [RUNS]]: fails where a scenario has more than so many runs, as they are not all then. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "world.h"

#define MAX_RUNS UINT64_C(2000000)

static const struct scenario *const lists[] = { basic_scenarios, rest_scenarios, fan_scenarios, door_scenarios,
						handle_scenarios };

static bool run(const struct scenario *s, uint64_t limit)
{
	uint64_t runs;
	bool all = explore(s, limit, &runs);

	printf("%s: %llu runs, %s with at most %u preemption%s%s%s\n", s->name, (unsigned long long)runs,
	       all ? "all" : "CUT OFF, not all", s->preemptions, s->preemptions == 1 ? "" : "s",
	       s->crashable ? " and a crash" : "", s->pso ? ", stores out of order" : "");
	return all;
}

int main(int argc, char **argv)
{
	uint64_t limit = argc > 2 ? strtoull(argv[2], NULL, 10) : MAX_RUNS;
	bool good = true, any = false;

	for (unsigned i = 0; i < sizeof(lists) / sizeof(lists[0]); i++) {
		for (const struct scenario *s = lists[i]; s->name; s++) {
			if (argc > 1 && strcmp(argv[1], s->name) && strcmp(argv[1], "all"))
				continue;
			any = true;
			good &= run(s, limit);
		}
	}
	if (!any)
		printf("no such scenario\n");
	return good && any ? 0 : 2;
}
