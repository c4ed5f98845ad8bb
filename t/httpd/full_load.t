#!/usr/bin/perl
# SPDX-License-Identifier: Apache-2.0
#
# Full memory is an error and not a loss, under load: thirty-two clients fill
# the store and go on. No "OK" without the bytes, nothing that was acknowledged
# goes, live sessions take their updates while new ones are refused, the log has
# a line a minute and the status tells. Then time alone makes room: the sweep
# gives expired sessions' memory back while nobody asks, and stores are taken
# again without anybody's help.
use v5.36;
use FindBin ();
use lib "$FindBin::Bin/../lib";
use Test::More;
use Sessiond::Test::Client ();
use Sessiond::Test::Httpd  ();
use Sessiond::Test::Load   qw(make_value);
use Sessiond::Test::Net    qw(now nap);

my $LONG    = $ENV{SESSIOND_TEST_LONG};
my $BEYOND  = $LONG ? 10 : 2;       # seconds of load on full memory
my $MEMORY  = $LONG ? 64 : 16;      # MB
my $LIFE    = 6;                    # seconds, where sessions are to expire

my $config = <<"END";
SessiondListen 127.0.0.1:%PORT%
SessiondMemory ${MEMORY}M
SessiondMaxSize 1M
SessiondThreads 2
END
my $h = Sessiond::Test::Httpd->new(name => 'full_load', config => $config)->start;
$h->allow_log(qr/the session memory is full: \d+ stores refused/);
my $plain = Sessiond::Test::Client->new($h->port);

# From 60 bytes to 200 KB, most of them small.
my @SIZES = ((60, 200, 400, 600, 600, 900, 1500, 2500, 6000) x 3, 40_000, 200_000);

sub load (%arg) {
    return Sessiond::Test::Load->new(addr => $h->port, clients => 32, extended => 0.5, rate => 0, fetches => 0.3,
        sizes => \@SIZES, live => 4, updates => 0.3, %arg)->start;
}

subtest 'filled under load' => sub {
    my $load = load();
    $h->wait_for(sub { $h->value('RefusedFull') > 100 }, 120, 'full memory');
    # A large session is refused long before a small one is; wait for those too.
    $h->eventually(sub { $h->value('LargestValue') < 1000 }, 60);
    my $refused = $h->value('RefusedFull');
    my $full = $h->status;
    nap($BEYOND);
    my $later = $h->status;
    my $sum = $load->stop;
    diag $load->describe;
    my $status = $h->status;

    cmp_ok($later->{SessiondRefusedFull}, '>', $refused + 100, 'new sessions are refused all the while');
    cmp_ok($sum->{stored}, '>', 1000, "$sum->{stored} sessions were stored");
    is_deeply([@$sum{qw(missed wrong denied refused cut timeout)}], [(0) x 6], 'a refusal is a reset or an E, and no session is missed');
    cmp_ok($sum->{updated}, '>', 200, "live sessions take their updates ($sum->{updated})");
    # An update of 200 KB does not fit into the last 1%, nor do many of 40 KB at once.
    my ($refusals, %other) = ($sum->{reset}, %{ $sum->{other} });
    $refusals += delete $other{$_} for grep { /^(?:update_reset|(?:update_)?reply_E)$/ } keys %other;
    is($refusals, $status->{SessiondRefusedFull}, 'every refusal is counted, and nothing else is refused');
    is_deeply(\%other, {}, 'and nothing else happened');

    cmp_ok($full->{SessiondMemoryFree}, '<', ($MEMORY << 20) / 20, 'the status says that memory is used up');
    cmp_ok($status->{SessiondLargestValue}, '<', 200_000, 'and what could still be stored');
    is($status->{SessiondEvicted}, 0, 'nothing was evicted');
    is($status->{SessiondExpired}, 0, 'nothing had expired');

    my $found = $load->verify;
    is($found->{asked}, $sum->{stored} + $sum->{live}, 'every acknowledged session is asked for');
    is_deeply([@$found{qw(lost wrong unanswered)}], [0, 0, 0], 'and holds its bytes') or diag join "\n", @{ $found->{examples} };
    is($status->{SessiondSessions}, $found->{asked}, 'there are no others');
    is($h->value('BlocksUsed'), $found->{blocks}, 'and what was refused holds no memory');
    is($h->check, 'clean', 'the store is clean');
};

my @lines = grep { /the session memory is full/ } split /\n/, $h->error_log;
is(scalar @lines, 1, 'the log has one line for it') or diag join "\n", @lines;

subtest 'small sessions under load on full memory' => sub {
    $h->stop;
    $h->start;
    my $refused = sub { $h->value('RefusedFull') };
    is($plain->store("mine$_", make_value("mine$_", 0, 900)), 'ok', "a session of mine, $_") for 1 .. 10;
    my $load = load(sizes => [400, 900, 2000], live => 0);
    $h->wait_for(sub { $refused->() > 500 }, 120, 'full memory');
    # Each store of a live session must find its way in, whatever the others do.
    my ($n, $before, %outcome) = (0, $refused->());
    my $until = now() + $BEYOND;
    while (now() < $until) {
        $n++;
        my $key = 'mine' . (1 + $n % 10);
        $outcome{ $plain->store($key, make_value($key, $n, 900)) }++;
    }
    my $sum = $load->stop;
    diag $load->describe;
    is_deeply([keys %outcome], ['ok'], "$n updates of live sessions went in");
    cmp_ok($refused->() - $before, '>', 100, 'while new ones were refused');
    my $found = $load->verify;
    is_deeply([@$found{qw(lost wrong unanswered)}], [0, 0, 0], 'nothing is lost') or diag join "\n", @{ $found->{examples} };
};

subtest 'room comes back' => sub {
    $h->stop;
    $h->reconfigure($config . "SessiondExpiration $LIFE\n")->start;
    my $empty = $h->status;
    my $load  = load(live => 0, fetches => 0);
    $h->wait_for(sub { $h->value('RefusedFull') > 100 }, 120, 'full memory');
    my $sum = $load->stop;
    diag $load->describe;
    my $sessions = $h->value('Sessions');
    cmp_ok($sessions, '>', 100, "full with $sessions sessions");

    # No request from here on: only the sweep can find out that they are over.
    my $begin = now();
    my $gone  = $h->eventually(sub { $h->value('Sessions') == 0 }, $LIFE + 60);
    ok($gone, sprintf 'the sweep has removed all of them after %.1f s', now() - $begin);
    is($h->value('MemoryUsed'), $empty->{SessiondMemoryUsed}, 'and their memory is back');
    is($h->value('LargestValue'), $empty->{SessiondLargestValue}, 'a session of the largest size could be stored again');

    # And with clients at work all the time: refused while it is full, taken as
    # soon as the first have expired.
    $load = load(live => 0);
    $h->wait_for(sub { $h->value('RefusedFull') > $empty->{SessiondRefusedFull} + 200 && $h->value('LargestValue') < 100_000 },
        120, 'full memory again');
    my ($stored, $expired) = map { $h->value($_) } qw(Stores Expired);
    my $goes_on = $h->eventually(sub { $h->value('Stores') > $stored + 500 && $h->value('Expired') > $expired + 500 }, $LIFE + 60);
    $sum = $load->stop;
    diag $load->describe;
    ok($goes_on, 'stores are taken again by itself');
    is_deeply([@$sum{qw(wrong denied refused cut timeout)}], [(0) x 5], 'nothing else was answered');
    is($h->check, 'clean', 'the store is clean');
};

$h->finish;
done_testing;
