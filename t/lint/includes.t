#!/usr/bin/perl
# SPDX-License-Identifier: Apache-2.0
#
# includes.t: the rooms stay apart. Includes and calls run
# mod_sessiond -> protocol -> shm and mod_sessiond -> persist -> shm, and never
# back or across; all but the first know no httpd, no log and no clock. The
# programs in tools/ share the order of bytes, and know neither httpd nor APR.
# The compiler sees only part of that: a hand-built httpd may keep its headers
# and APR's in one directory.
use v5.36;
use Test::More;
use FindBin;
use lib $FindBin::Bin;
use Tree qw(files slurp code_only);

# APR is meant by its prefix; what POSIX and C have is listed as it is used.
my $LIBC = qr{^(?:sys/|linux/|netinet/|arpa/)?[a-z0-9_]+\.h$};
my $HTTPD = qr{^(?:httpd|http_\w+|ap_\w+|mod_(?!sessiond/)\w+|mpm_\w+|scoreboard|util_\w+|unixd|os)\.h$};
my $LOGS = qr{\b(?:ap_log_\w+|syslog|v?f?printf|perror|puts|fputs)\s*\(};
my $CLOCK = qr{\b(?:time|clock_gettime|clock|apr_time_now|gettimeofday|ftime)\s*\(};
# What a room sees of another; itself it sees whole, and mod_sessiond sees all.
my %SEES = (
    shm      => [],
    protocol => [qw(shm/store.h shm/counters.h)],
    persist  => [qw(shm/store.h shm/counters.h shm/changes.h)],
    tools    => [qw(protocol/bytes.h)],
);

# What is wrong with one file, as sentences; also fed bad samples below.
sub complaints ($path, $source) {
    my $code = code_only($source);
    my ($room) = $path =~ m{^(\w+)/};
    my @bad;
    while ($code =~ /^\s*#\s*include\s*(?:"([^"]+)"|<([^>]+)>)/mg) {
        my ($ours, $system) = ($1, $2);
        if (defined $ours) {
            my $target = $ours =~ m{/} ? $ours : "$room/$ours";
            $target =~ s{^\.\./}{};
            my ($from) = $target =~ m{^(\w+)/};
            push @bad, "includes $ours: of other rooms $room/ sees only (@{ $SEES{$room} })"
                if $SEES{$room} && $from ne $room && !grep { $_ eq $target } @{ $SEES{$room} };
            push @bad, "includes \"$ours\": system headers stand in <>" if $ours =~ $HTTPD || $ours =~ /^ap[ru]_/;
        }
        elsif ($room ne 'mod_sessiond') {
            push @bad, "includes <$system>: httpd's" if $system =~ $HTTPD;
            push @bad, "includes <$system>: APR's, which tools/ does without" if $room eq 'tools' && $system =~ /^ap[ru]_/;
            push @bad, "includes <$system>: neither APR's nor libc's" unless $system =~ $LIBC;
        }
    }
    if ($room ne 'mod_sessiond' && $room ne 'tools') {
        $code =~ s/"(?:[^"\\\n]|\\.)*"/""/g;
        push @bad, "logs or prints: $1" if $code =~ /($LOGS)/;
        push @bad, "reads a clock: $1" if $code =~ /($CLOCK)/;
    }
    return @bad;
}

for my $sample (
    ['shm/x.c',      '#include <httpd.h>',                'httpd in shm/'],
    ['protocol/x.c', '# include <http_log.h>',            'httpd in protocol/'],
    ['protocol/x.c', '#include "shm/internal.h"',         'an inner header of shm/ in protocol/'],
    ['protocol/x.c', '#include "../shm/layout.h"',        'the same by a relative path'],
    ['shm/x.c',      '#include "protocol/wire.h"',        'protocol/ in shm/'],
    ['protocol/x.c', '#include "mod_sessiond/config.h"',  'mod_sessiond/ in protocol/'],
    ['protocol/x.c', '#include "persist/load.h"',         'persist/ in protocol/'],
    ['persist/x.c',  '#include "protocol/wire.h"',        'protocol/ in persist/'],
    ['persist/x.c',  '#include "shm/internal.h"',         'an inner header of shm/ in persist/'],
    ['shm/x.c',      '#include "persist/persist.h"',      'persist/ in shm/'],
    ['persist/x.c',  'apr_time_now();',                   'a clock in persist/'],
    ['shm/x.c',      'x = time(NULL);',                   'a clock in shm/'],
    ['protocol/x.c', 'clock_gettime(CLOCK_BOOTTIME, &t);', 'a clock in protocol/'],
    ['protocol/x.c', 'fprintf(stderr, "x");',             'a print in protocol/'],
    ['tools/x.c',    '#include "protocol/wire.h"',        'the server in tools/'],
    ['tools/x.c',    '#include <httpd.h>',                'httpd in tools/'],
    ['tools/x.c',    '#include <apr_file_io.h>',          'APR in tools/'],
) {
    my ($path, $source, $what) = @$sample;
    isnt(scalar complaints($path, $source), 0, "is noticed: $what");
}
is_deeply([complaints('shm/x.c', "#include <apr_shm.h>\n#include \"store.h\"\n/* time(2) */ run_time(\"time(\");")], [],
    'what is allowed is let through');

for my $room (qw(shm protocol persist mod_sessiond tools)) {
    for my $path (files(qr{^$room/.*\.[ch]$})) {
        is_deeply([complaints($path, slurp($path))], [], $path);
    }
}
done_testing;
