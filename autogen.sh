#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Makes ./configure. Run once after a clone; deploy/check and deploy/quickstart do it by themselves.
set -e
cd "$(dirname "$0")"
mkdir -p m4 build-aux
autoreconf --force --install --warnings=all
