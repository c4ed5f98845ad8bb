#!/usr/bin/perl
# SPDX-License-Identifier: Apache-2.0
#
# The soak, for some twenty seconds: that it runs, comes to its end and finds
# nothing. The hour is "make soak"; what a minute cannot show, such as memory
# that grows, is judged only there.
use v5.36;
use FindBin ();
use lib "$FindBin::Bin/../lib";
use Test::More;
use Sessiond::Test::Httpd ();

my $soak = Sessiond::Test::Httpd->top_srcdir . '/t/soak/soak';
my $minutes = $ENV{SESSIOND_TEST_LONG} ? 6 : 0.3;
my @lines;
my $pid = open my $from, '-|', $^X, $soak, '--minutes', $minutes or BAIL_OUT("cannot run it: $!");
local $SIG{TERM} = local $SIG{INT} = sub { kill TERM => $pid; exit 1 };
while (my $line = readline $from) { push @lines, $line }
close $from;
is($?, 0, 'it ends well');
is($lines[-1] // '', "PASS\n", 'and says so') or diag @lines;
my %done = map { /^done:\s+(.*)/ ? map { split } split /, /, $1 : () } @lines;
cmp_ok($done{$_} // 0, '>=', 1, "there was a $_") for qw(graceful kill restart check);
my ($clients) = grep { /^clients:/ } @lines;
my %client = map { split } split /, /, ($clients // '') =~ s/^clients:\s+//r;
cmp_ok($client{$_} // 0, '>', 50, "sessions were $_") for qw(stored seen seen_expired);
note @lines;
done_testing;
