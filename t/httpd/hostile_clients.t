#!/usr/bin/perl
# SPDX-License-Identifier: Apache-2.0
#
# Slow clients hurt only themselves: a thousand that idle, two hundred that
# dribble a byte a second, and a hundred that ask for six megabytes and do not
# read them, while those megabytes are replaced again and again, so that what the
# hundred hold is nobody's session any more. Meanwhile good clients lose
# nothing, no live session is refused its update, and neither they nor the web
# pages get slower. When the bad ones are gone, so is all they held.
use v5.36;
use FindBin ();
use lib "$FindBin::Bin/../lib";
use Test::More;
use Sessiond::Test::BadClients ();
use Sessiond::Test::Client     ();
use Sessiond::Test::Httpd      ();
use Sessiond::Test::Load       ();
use Sessiond::Test::Timing     qw(window windows_of);

my $LONG   = $ENV{SESSIOND_TEST_LONG};
my $TURNS  = $LONG ? 5 : 1;
my $QUIET  = $LONG ? [1, 4] : [3, 1];           # windows of a turn, and their seconds
my $LOUD   = $LONG ? [1, 8] : [3, 3];
my %BAD    = (silent => 250, begun => 250, pooled => 500, dribble => 200, deaf => 100, rewriter => 4);
my $HELD   = 1300;
my @LARGE  = map { "large$_" } 1 .. 4;
my $MB     = 1 << 20;
my $GREAT  = 6 * $MB;                           # more than the kernel takes off our hands for one client

my $h = Sessiond::Test::Httpd->new(name => 'hostile_clients', config => <<'END')->start;
SessiondListen 127.0.0.1:%PORT%
SessiondMemory 256M
SessiondMaxSize 8M
SessiondTimeout 5
SessiondThreads 2
END

# The session process's memory beside the segment, in KB.
sub own_memory () {
    open my $fh, '<', '/proc/' . $h->sessiond_pid . '/status' or die "status: $!";
    my ($kb) = join('', readline $fh) =~ /^RssAnon:\s+(\d+) kB/m or die 'no RssAnon';
    return $kb;
}

my $plain = Sessiond::Test::Client->new($h->port);
is($plain->store($_, 'a' x $GREAT), 'ok', "a large session, $_") for @LARGE;
my $load = Sessiond::Test::Load->new(addr => $h->port, clients => 12, extended => 0.5, rate => 200, live => 10,
    fetches => 0.6, timings => 1, http => [$h->http_port, '/ok.txt'])->start;
$h->wait_for(sub { $h->value('Stores') > 200 }, 60, 'the load');

my (%most, %bad);
my $own_before = own_memory();

# One turn: quiet windows, and loud ones with all bad clients there.
sub turn ($turn) {
    my @quiet  = map { window($QUIET->[1]) } 1 .. $QUIET->[0];
    my $before = $h->status;
    my $bad = Sessiond::Test::BadClients->new(addr => $h->port, kinds => \%BAD, keys => \@LARGE, size => $GREAT)->start;
    ok($h->eventually(sub { $bad->held >= $HELD }, 60), "turn $turn: $HELD bad clients are there") or diag $bad->describe;
    my @loud;
    for (1 .. $LOUD->[0]) {
        push @loud, window($LOUD->[1]);
        my $is = $h->status;
        my %seen = (own => own_memory(), connections => $is->{SessiondConnectionsOpen}, used => $is->{SessiondMemoryUsed});
        for (keys %seen) { $most{$_} = $seen{$_} if $seen{$_} > ($most{$_} // 0) }
    }
    my $is  = $h->status;
    my $sum = $bad->stop;
    diag "turn $turn: " . $bad->describe;
    $bad{$_} += $sum->{$_} for keys %$sum;
    cmp_ok($sum->{bytes_in}, '<', 50 * $GREAT, 'the deaf ones read next to nothing');
    cmp_ok($is->{SessiondWrites} - $before->{SessiondWrites}, '>', 20, 'large sessions were replaced under them');
    return (\@quiet, \@loud);
}

my $judge = windows_of('beside bad clients', $load, ['store|update|fetch', 'page'], sub ($try) {
    my (@quiet, @loud);
    for my $turn (1 .. $TURNS) {
        my ($quiet, $loud) = turn($turn);
        push @quiet, @$quiet;
        push @loud, @$loud;
    }
    return (\@quiet, \@loud);
});
$own_before = $own_before / 1024;
my $grown = $most{own} / 1024 - $own_before;
my $sum = $load->stop;
diag sprintf 'at most: %d connections, %.1f MB used, own memory %.1f MB more than %.1f MB', $most{connections},
    $most{used} / $MB, $grown, $own_before;
diag $load->describe;

subtest 'the good ones' => sub {
    $judge->();
    cmp_ok($sum->{updated}, '>', 100, "live sessions are stored again ($sum->{updated})");
    is_deeply($sum->{other}, {}, 'and never refused');
    is_deeply([@$sum{qw(missed wrong denied refused cut timeout http_failed)}], [(0) x 7], 'no request got another answer than its own');
    is($sum->{reset}, 0, 'nor was a new session refused');
    my $found = $load->verify;
    is($found->{asked}, $sum->{stored} + $sum->{live}, 'all that was acknowledged is asked for');
    is_deeply([@$found{qw(lost wrong unanswered)}], [0, 0, 0], 'nothing is lost') or diag join "\n", @{ $found->{examples} };

    $h->wait_for(sub { $h->value('ConnectionsOpen') == 0 }, 60, 'the end of the last connection');
    my $is = $h->status;
    is($is->{SessiondSessions}, $found->{asked} + @LARGE, 'the sessions are those that were acknowledged');
    my $large = @LARGE * int((40 + length($LARGE[0]) + $GREAT + 255) / 256);
    is($is->{SessiondBlocksUsed}, $found->{blocks} + $large, 'and take all the memory that is in use');
};

subtest 'the bad ones' => sub {
    cmp_ok($most{connections}, '>=', $HELD * 0.8, 'were served at the same time');
    cmp_ok($bad{reset_dribble} // 0, '>', 0, 'a dribbler is cut off by SessiondTimeout');
    cmp_ok($bad{reset_begun} // 0, '>', 0, 'so is one that begins and stops');
    cmp_ok($bad{reset_deaf} // 0, '>', 0, 'and one that does not read');
    # Some 200 bytes for a connection, 4 KB for an answer that is not taken.
    cmp_ok($grown, '<', 6, sprintf 'they cost the session process %.1f MB of its own', $grown);
};

is($h->check, 'clean', 'the store is clean');
$h->finish;
done_testing;
