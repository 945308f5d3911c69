/*
 * What the command line understands.
 */
#include <string.h>

#include "cli/cli.h"

#define FLAG(n, l, field, h)                                                                                           \
	{                                                                                                              \
		n, l, CLI_FLAG, offsetof(struct cli_opts, field), NULL, h                                              \
	}
#define TEXT(n, l, field, a, h)                                                                                        \
	{                                                                                                              \
		n, l, CLI_TEXT, offsetof(struct cli_opts, field), a, h                                                 \
	}
#define STOP(n, l, field, h)                                                                                           \
	{                                                                                                              \
		n, l, CLI_STOP, offsetof(struct cli_opts, field), NULL, h                                              \
	}
#define LIST(n, l, field, a, h)                                                                                        \
	{                                                                                                              \
		n, l, CLI_LIST, offsetof(struct cli_opts, field), a, h                                                 \
	}
#define OPTS(t) .opts = t, .n_opts = ARRAY_SIZE(t)

/* How a machine is made; stored with a distro, or for one `run`. */
#define MACHINE_OPTS                                                                                                   \
	TEXT("engine", 0, engine, "auto|kvm|tcg", "what runs the machine (default: the best that works)"),             \
		TEXT("kernel", 0, kernel, "NAME", "a kernel of `wslx kernel list`"),                                   \
		TEXT("memory", 0, memory, "SIZE",                                                                      \
		     "such as 512M or 2G, 240G at most (default: half of the host's, 4G at most)"),                    \
		TEXT("cpus", 0, cpus, "N", "processors (default: the host's)"),                                        \
		TEXT("net", 0, net, "passt|none|tap:IF", "network (default: passt)"),                                  \
		LIST("publish", 'p', publish, "[ADDR:]HOST:GUEST[/udp]",                                               \
		     "a port of the guest on the host; repeatable")

#define COMMAND_OPTS                                                                                                   \
	TEXT("user", 'u', user, "USER", "as this user"),                                                               \
		TEXT("cd", 0, cd, "DIR", "in this folder of the guest, from the user's home (default: there)"),        \
		TEXT("shell-type", 0, shell_type, "standard|login|none", "how CMD is run"),                            \
		STOP("exec", 'e', exec, "run CMD as it is, without a shell")

static const struct cli_opt exec_opts[] = {
	TEXT("distribution", 'd', distro, "NAME", "in this distribution (default: see `wslx list`)"),
	COMMAND_OPTS,
};

static const struct cli_opt run_opts[] = { MACHINE_OPTS, COMMAND_OPTS };

static const struct cli_opt install_opts[] = {
	TEXT("name", 0, name, "NAME", "call it NAME (default: debian)"),
	TEXT("size", 0, size, "SIZE", "virtual size of its disk (default: 1T, sparse)"),
	TEXT("suite", 0, suite, "SUITE", "Debian release (default: the host's, else bookworm)"),
	TEXT("mirror", 0, mirror, "URI", "package mirror (default: the host's)"),
	TEXT("include", 0, include, "PKG,...", "further packages"),
	TEXT("from-file", 'f', from_file, "FILE", "import this archive or image instead"),
	TEXT("distribution", 'd', distro, "debian", "as WSL has it: the same as the word alone"),
	TEXT("version", 0, version, "2", "as WSL has it; there is no other"),
	FLAG("no-launch", 'n', ignored, "as WSL has it: nothing is launched anyway"),
	FLAG("web-download", 0, ignored, "as WSL has it: there is no other source"),
	MACHINE_OPTS,
};

static const struct cli_opt import_opts[] = {
	TEXT("size", 0, size, "SIZE", "virtual size of its disk (default: 1T, sparse)"),
	TEXT("version", 0, version, "2", "as WSL has it; there is no other"),
	FLAG("vhd", 0, vhd, "not possible: says what is instead"),
	MACHINE_OPTS,
};

static const struct cli_opt list_opts[] = {
	FLAG("verbose", 'v', verbose, "with state and version"),
	FLAG("quiet", 'q', quiet, "names only"),
	FLAG("json", 0, json, "everything, for programs"),
	FLAG("running", 0, running, "those that run"),
	FLAG("all", 0, all, "also those being installed"),
	FLAG("online", 'o', online, "those that `wslx install` can install"),
};

static const struct cli_opt export_opts[] = {
	TEXT("format", 0, format, "tar|tar.gz|tar.xz", "of the archive (default: by FILE's name, else tar)"),
	FLAG("vhd", 0, vhd, "not possible: says what is instead"),
};

static const struct cli_opt manage_opts[] = {
	TEXT("set-default-user", 0, default_user, "USER", "as `wslx config NAME user=USER`"),
	TEXT("set-sparse", 0, sparse, "true", "disks are always sparse"),
	TEXT("resize", 0, resize, "SIZE", "not possible: says what is instead"),
	TEXT("move", 0, move, "DIR", "not possible: says what is instead"),
};

static const struct cli_opt stop_opts[] = {
	FLAG("force", 'f', force, "at once, as if the power went"),
};

static const struct cli_opt kernel_opts[] = {
	TEXT("name", 0, name, "NAME", "add: call it NAME (default: its release)"),
	TEXT("modules", 0, modules, "DIR", "add: its lib/modules/VERSION"),
	FLAG("quiet", 'q', quiet, "list: names only"),
	FLAG("json", 0, json, "list: everything, for programs"),
	FLAG("force", 'f', force, "remove: also one that distributions start with"),
};

static const struct cli_opt portal_opts[] = {
	TEXT("size", 0, size, "SIZE",
	     "create: address space of the region (default: 64G, it takes memory only as it is used);\n"
	     "                                  grant: memory that the machine may write to (default: 8M)"),
	FLAG("read-only", 0, read_only, "grant: the machine may read only"),
	TEXT("as", 0, as, "NAME", "grant: what the region is called in the machine (default: its name)"),
	TEXT("participant", 0, participant, "N", "revoke: from this one, as `stat` numbers them"),
	TEXT("timeout", 0, timeout, "SECONDS", "quiesce: how long to wait for all of them, at most 60 (default: 5)"),
	FLAG("json", 0, json, "list, stat: everything, for programs"),
};

static const struct cli_opt logs_opts[] = { FLAG("follow", 'f', follow,
						 "go on as more comes, until the machine ends") };
static const struct cli_opt json_opts[] = { FLAG("json", 0, json, "for programs") };
static const struct cli_opt config_opts[] = { FLAG("json", 0, json, "show everything, for programs") };
static const struct cli_opt doctor_opts[] = {
	FLAG("json", 0, json, "for programs"),
	FLAG("fresh", 0, fresh, "probe again instead of using an earlier result"),
};

#define COMMAND_DETAILS                                                                                                \
	"CMD of several words: each word reaches the program as it is. CMD of one word is given to the\n"              \
	"user's shell, so that wslx -- 'ls | wc -l' works. -e runs the words without any shell.\n"

const struct cli_verb cli_exec_verb = {
	.name = "",
	.args = "[-d NAME] [-u USER] [--cd DIR] [-e] [--] [CMD...]",
	.summary = "run CMD, or a login shell, in a distribution; starts its machine if need be",
	.tail = true,
	OPTS(exec_opts),
	.run = cli_exec,
	.sweep = true,
};

const struct cli_verb cli_verbs[] = {
	{ .name = "install",
	  .wsl = "--install",
	  .args = "[debian] [--name NAME] [OPTIONS]",
	  .max_pos = 1,
	  .summary = "make a Debian distribution, with a kernel to run it",
	  .details = "If the distribution is there and only its kernel is not, the kernel is fetched again.\n",
	  OPTS(install_opts),
	  .run = cli_install },
	{ .name = "import",
	  .wsl = "--import",
	  .args = "NAME FILE|- [OPTIONS]",
	  .min_pos = 2,
	  .max_pos = 3,
	  .summary = "make a distribution from a root file system",
	  .details = "FILE is a tar archive (plain, gz, xz, zst, bz2, .wsl) or a raw ext4 image; - is the standard "
		     "input.\n",
	  OPTS(import_opts),
	  .run = cli_import },
	{ .name = "export",
	  .wsl = "--export",
	  .args = "NAME FILE|- [--format tar|tar.gz|tar.xz]",
	  .min_pos = 2,
	  .max_pos = 2,
	  .summary = "write a stopped distribution's files to an archive that `wslx import` takes",
	  .details = "- is the standard output. FILE's suffix chooses the format: .gz or .tgz, .xz or .txz, else plain "
		     "tar.\n",
	  OPTS(export_opts),
	  .run = cli_export,
	  .sweep = true },
	{ .name = "run",
	  .args = "IMAGE [OPTIONS] [--] [CMD...]",
	  .min_pos = 1,
	  .max_pos = 1,
	  .tail = true,
	  .summary = "run CMD, or a login shell, in a throw-away machine over a copy of IMAGE's disk",
	  .details =
		  "IMAGE is an installed distribution, or a file that `wslx import` would take. The machine and all\n"
		  "that was changed in it are gone afterwards.\n" COMMAND_DETAILS,
	  OPTS(run_opts),
	  .run = cli_run,
	  .sweep = true },
	{ .name = "list",
	  .wsl = "--list",
	  .wsl2 = "-l",
	  .args = "[-v|-q|--json] [--running|--all|--online]",
	  .summary = "list the distributions",
	  OPTS(list_opts),
	  .run = cli_list,
	  .sweep = true },
	{ .name = "terminate",
	  .wsl = "--terminate",
	  .wsl2 = "-t",
	  .args = "NAME [--force]",
	  .min_pos = 1,
	  .max_pos = 1,
	  .summary = "stop a distribution's machine",
	  OPTS(stop_opts),
	  .run = cli_terminate },
	{ .name = "shutdown",
	  .wsl = "--shutdown",
	  .args = "[--force]",
	  .summary = "stop all machines",
	  OPTS(stop_opts),
	  .run = cli_shutdown,
	  .sweep = true },
	{ .name = "unregister",
	  .wsl = "--unregister",
	  .args = "NAME",
	  .min_pos = 1,
	  .max_pos = 1,
	  .summary = "stop a distribution and delete it with its disk",
	  .run = cli_unregister },
	{ .name = "set-default",
	  .wsl = "--set-default",
	  .wsl2 = "-s",
	  .args = "NAME",
	  .min_pos = 1,
	  .max_pos = 1,
	  .summary = "choose the distribution that is used when none is named",
	  .run = cli_set_default },
	{ .name = "set-default-version",
	  .wsl = "--set-default-version",
	  .args = "2",
	  .min_pos = 1,
	  .max_pos = 1,
	  .summary = "do nothing: every distribution is version 2",
	  .run = cli_set_default_version,
	  .no_manager = true,
	  .hidden = true },
	{ .name = "set-version",
	  .wsl = "--set-version",
	  .args = "NAME 2",
	  .min_pos = 2,
	  .max_pos = 2,
	  .summary = "do nothing: every distribution is version 2",
	  .run = cli_set_version,
	  .hidden = true },
	{ .name = "manage",
	  .wsl = "--manage",
	  .args = "NAME --set-default-user USER | --set-sparse true",
	  .min_pos = 1,
	  .max_pos = 1,
	  .summary = "change a distribution, as WSL spells it; see `wslx config`",
	  OPTS(manage_opts),
	  .run = cli_manage,
	  .hidden = true },
	{ .name = "config",
	  .args = "NAME [--json | KEY=VALUE...]",
	  .min_pos = 1,
	  .max_pos = 1,
	  .tail = true,
	  .summary = "show or change a distribution's settings; they count from its next start",
	  .details = "Keys: engine, kernel, memory, cpus, user, net, publish, portal, portal-window. An empty value\n"
		     "restores the default; each publish=[ADDR:]HOST:GUEST[/udp] adds one, publish= drops them all.\n"
		     "portal=REGION:SIZE[:NAME] or portal=REGION:ro[:NAME] is what `wslx portal grant` stores;\n"
		     "portal-window=SIZE is how much of regions the machine can see at a time (default: 256M).\n"
		     "In JSON the same names are used, with portal_window; sizes are in bytes, publish and portal are\n"
		     "lists, and `defaults` has the names of those that are not set.\n",
	  OPTS(config_opts),
	  .run = cli_config },
	{ .name = "kernel",
	  .args = "list | add FILE [--name NAME] [--modules DIR] | remove NAME [--force]",
	  .min_pos = 1,
	  .max_pos = 2,
	  .summary = "manage kernels",
	  .details =
		  "FILE is a bzImage, an ELF vmlinux, or a Debian kernel package (.deb), which brings its modules.\n",
	  OPTS(kernel_opts),
	  .run = cli_kernel },
	{ .name = "portal",
	  .args = "create NAME | list | stat NAME | grant REGION DISTRO | revoke REGION DISTRO|--participant N | "
		  "quiesce NAME | resume NAME | remove NAME",
	  .min_pos = 1,
	  .max_pos = 3,
	  .summary = "manage Portal regions: memory that programs and machines share",
	  .details =
		  "A region lives until it is removed or the host restarts; a grant is kept with the distribution.\n"
		  "A running machine takes a grant at once if it has had one, or portal-window=SIZE, at its start.\n",
	  OPTS(portal_opts),
	  .run = cli_portal },
	{ .name = "logs",
	  .args = "NAME [-f]",
	  .min_pos = 1,
	  .max_pos = 1,
	  .summary = "show the console of a machine",
	  OPTS(logs_opts),
	  .run = cli_logs },
	{ .name = "stats",
	  .args = "NAME [--json]",
	  .min_pos = 1,
	  .max_pos = 1,
	  .summary = "show counters of a running machine",
	  OPTS(json_opts),
	  .run = cli_stats },
	{ .name = "doctor",
	  .args = "[--json] [--fresh]",
	  .summary = "say what works on this host, what does not, and how to mend it",
	  OPTS(doctor_opts),
	  .run = cli_doctor },
	{ .name = "status",
	  .wsl = "--status",
	  .args = "",
	  .summary = "show the default distribution and the engine",
	  .run = cli_status },
	{ .name = "version",
	  .wsl = "--version",
	  .wsl2 = "-v",
	  .args = "",
	  .summary = "show the version",
	  .run = cli_version,
	  .no_manager = true },
	{ .name = "help",
	  .wsl = "--help",
	  .wsl2 = "-h",
	  .args = "[VERB]",
	  .max_pos = 1,
	  .summary = "show help",
	  .run = cli_help,
	  .no_manager = true },
	{ .name = "debug",
	  .args = "confinement NAME",
	  .min_pos = 2,
	  .max_pos = 2,
	  .summary = "look inside a machine started with WSLX_TEST_HOOKS=1",
	  .run = cli_debug,
	  .hidden = true },
};
const size_t cli_n_verbs = ARRAY_SIZE(cli_verbs);

const struct cli_verb *cli_find_verb(const char *word)
{
	for (size_t i = 0; i < cli_n_verbs; i++) {
		const struct cli_verb *v = &cli_verbs[i];

		if (!strcmp(v->name, word) || (v->wsl && !strcmp(v->wsl, word)) || (v->wsl2 && !strcmp(v->wsl2, word)))
			return v;
	}
	return NULL;
}
