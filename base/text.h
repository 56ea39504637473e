/* SPDX-License-Identifier: Apache-2.0 */
/* Text that somebody else wrote. */
#ifndef DROVER_BASE_TEXT_H
#define DROVER_BASE_TEXT_H

/*
 * Makes it fit for one line of a log or a terminal, in place: control characters
 * (ASCII's, and C1 in UTF-8, ECMA-48) become spaces. A VMM that its guest has taken over
 * has words in events and reasons. Any thread.
 */
void text_plain(char *text);

#endif
