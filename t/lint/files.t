#!/usr/bin/perl
# SPDX-License-Identifier: Apache-2.0
#
# files.t: what every file of the tree has in common: an SPDX line at its top,
# a length that one topic needs, no tab (except where make wants it), no path of
# somebody's machine, no trailing blanks and nothing marked as left undone.
use v5.36;
use Test::More;
use FindBin;
use lib $FindBin::Bin;
use Tree qw(files slurp is_text);

use constant MAX_LINES => 650;

# Spelt so that this file does not find itself.
# ($ in front: TAP's word for a known failure.)
my $UNDONE  = join '|', map { "(?<!\\\$)\\b$_\\b" } 'TO' . 'DO', 'FIX' . 'ME', 'XX' . 'X', 'HA' . 'CK';
my $PRIVATE = qr{(?<![\w.\$\}\)%])/(?:home|work|root|Users)/};
# Others' words, verbatim; and inputs that chance has made.
my $VERBATIM = qr{^LICENSE$|^t/fuzz/corpus/};

sub is_source ($path, $text) {
    return $path =~ /\.(?:[ch]|p[lm]|t|php|sh|m4|ac|am|in|supp)$/ || $text =~ /\A#!/;
}

sub complaints ($path, $text) {
    my @bad;
    if (is_source($path, $text)) {
        my @lines = split /^/, $text;
        push @bad, 'no SPDX-License-Identifier in the first three lines'
            unless grep { defined && /SPDX-License-Identifier: Apache-2\.0/ } @lines[0 .. 2];
        push @bad, scalar(@lines) . ' lines: look for the second topic past ' . MAX_LINES if @lines > MAX_LINES;
    }
    my $number = 0;
    for my $line (split /\n/, $text) {
        $number++;
        push @bad, "line $number: a tab" if $line =~ /\t/ && $path !~ /(?:^|\.)(?:Makefile\.am|mk|tsv)$/;
        push @bad, "line $number: blanks at the end" if $line =~ /[ \t]$/ && $path !~ /\.md$/;
        push @bad, "line $number: a path of one machine" if $line =~ $PRIVATE;
        push @bad, "line $number: marked as left undone" if $line =~ /$UNDONE/;
    }
    push @bad, 'no newline at the end' if length $text && $text !~ /\n\z/;
    return @bad;
}

my $spdx = "/* SPDX-License-Identifier: Apache-2.0 */\n";
for my $sample (
    ["int x;\n",                                 'no SPDX line'],
    ["$spdx\tint x;\n",                          'a tab'],
    ["${spdx}int x; \n",                         'a blank at the end'],
    [$spdx . "int x;\n" x MAX_LINES,             'too many lines'],
    ["${spdx}char *p = \"/ho" . "me/me/x\";\n",  'a private path'],
    ["${spdx}/* TO" . "DO: all */\n",            'a left-undone marker'],
    ["${spdx}int x;",                            'no newline at the end'],
) {
    isnt(scalar complaints('shm/x.c', $sample->[0]), 0, "is noticed: $sample->[1]");
}
is_deeply([complaints('shm/x.c', "${spdx}mkstemp(\"sessiond-XXXXXX\");\n")], [], 'what is allowed is let through');

for my $path (grep { $_ !~ $VERBATIM && is_text($_) } files(qr{.})) {
    is_deeply([complaints($path, slurp($path))], [], $path);
}
done_testing;
