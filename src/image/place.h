/* The end of a message about a full disk of the host: which one. */
#ifndef WSLX_IMAGE_PLACE_H
#define WSLX_IMAGE_PLACE_H

/* " in FOLDER", or nothing where that is not known (NULL). */
#define WSLX_PLACE_FMT "%s%.400s"
#define WSLX_PLACE(folder) (folder) ? " in " : "", (folder) ? (folder) : ""

#endif
