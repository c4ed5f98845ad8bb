#!/usr/bin/perl
# SPDX-License-Identifier: Apache-2.0
#
# Expiry: a value is served until its time is over and never after; a fetch
# does not extend it, a store does; W brings its own time.
#
# A client does not see the instant a store took effect, only that it lies
# between sending and the reply. So a fetch that was answered before the
# earliest possible expiry must hit, one that was sent after the latest
# possible expiry must miss, and between the two either is right.
use v5.36;
use FindBin ();
use lib "$FindBin::Bin/../lib";
use Test::More;
use Sessiond::Test::Httpd  ();
use Sessiond::Test::Client qw(frame_write);
use Sessiond::Test::Net    qw(now nap);

my $LIFE = 1;
my $TICK = 0.005;      # both sides round to their clock's tick
my $h = Sessiond::Test::Httpd->new(name => 'expiry', config => <<"END")->start;
SessiondListen 127.0.0.1:%PORT%
SessiondMemory 16M
SessiondExpiration $LIFE
END
my $c   = Sessiond::Test::Client->new($h->port);
my $ext = Sessiond::Test::Client->new($h->port);

# Stores by the given code, then looks until well after the expiry.
sub watch ($name, $life, $store, $look) {
    my $sent = now();
    ok($store->(), "$name: stored");
    my $acked = now();
    my ($early, $late, $hits, $misses) = (0, 0, 0, 0);
    while (1) {
        my $begin = now();
        my $found = $look->();
        my $end = now();
        if ($found) { $hits++;   $late++  if $begin > $acked + $life + $TICK }
        else        { $misses++; $early++ if $end < $sent + $life - $TICK }
        last if $begin > $acked + $life + 0.4;
        nap(0.003);
    }
    is($early, 0, "$name: never gone early");
    is($late, 0, "$name: never served late");
    ok($hits > 20 && $misses > 5, "$name: $hits hits before, $misses misses after");
}

sub fetches ($key) { return ($c->fetch($key))[0] eq 'ok' }
sub gets ($key)    { return (($ext->get($key))[1] // die 'no reply')->{type} eq 'V' }

my $before = $h->value('Expired');
watch('S, looked at by F', $LIFE, sub { $c->store('plain', 'data') eq 'ok' }, sub { fetches('plain') });
ok($h->value('ReadExpired') > 0 || $h->value('Expired') > $before, 'a counter says so');
watch('W with ttl 0, by G', $LIFE, sub { ($ext->write('w0', 'd', 0))[1]{type} eq 'K' }, sub { gets('w0') });
watch('W with ttl 2, by G', 2, sub { ($ext->write('w2', 'd', 2))[1]{type} eq 'K' }, sub { gets('w2') });

subtest 'a store starts the time again, a fetch does not' => sub {
    my ($lost, $refused, $last) = (0, 0, now());
    $c->store('alive', 'd');
    my $until = now() + 1.5 * $LIFE;
    while (now() < $until) {
        my $found = fetches('alive');
        $lost++ if !$found && now() - $last < $LIFE;
        $last = now();
        $refused++ if $c->store('alive', 'd') ne 'ok';
        nap(0.02);
    }
    is($lost, 0, 'stored again and again it outlives one life');
    is($refused, 0, 'each store was acknowledged');
    my $acked = now();
    my $seen_late = 0;
    while (now() < $acked + $LIFE + 0.3) {
        my $begin = now();
        $seen_late++ if fetches('alive') && $begin > $acked + $LIFE + $TICK;
        nap(0.01);
    }
    is($seen_late, 0, 'fetched again and again it does not');
};

subtest 'W with a longer life' => sub {
    is(($ext->write('long', 'd', 3600))[1]{type}, 'K', 'ttl 3600');
    is($c->store('short', 'd'), 'ok', 'and a store of the ordinary life beside it');
    $h->wait_for(sub { !fetches('short') }, 30, 'the end of the ordinary one');
    ok(fetches('long'), 'the longer one is there');
    is($c->store('long', 'd'), 'ok', 'S gives it the ordinary life');
    $h->wait_for(sub { !fetches('long') }, 30, 'the end of the longer one');
    pass('and it ends');
};

subtest 'an expired session is no session' => sub {
    my $version = ($ext->write('dead', 'd', 1, ~0))[1]{version};
    $h->wait_for(sub { !gets('dead') }, 30, 'its end');
    is($c->delete('dead'), 'no', 'D finds none');
    is(($ext->write('dead', 'x', 0, $version))[1]{type}, 'B', 'W against its version is fenced');
    is(($ext->write('dead', 'x', 0, 0))[1]{type}, 'K', 'W against version 0 writes');
};

subtest 'memory comes back without anybody asking' => sub {
    my ($sessions, $free) = ($h->value('Sessions'), $h->value('MemoryFree'));
    my $expired = $h->value('Expired');
    my ($outcome, @replies) = $ext->call(map { frame_write("sweep$_", 's' x 4000, 3) } 1 .. 200);
    is(scalar(grep { $_->{type} eq 'K' } @replies), 200, 'two hundred sessions for three seconds');
    cmp_ok($h->value('MemoryFree'), '<', $free - 500_000, 'memory is taken');
    $h->wait_for(sub { $h->value('Sessions') <= $sessions }, 60, 'the sweep');
    $h->wait_for(sub { $h->value('MemoryFree') >= $free }, 60, 'the return of memory');
    cmp_ok($h->value('Expired') - $expired, '>=', 200, 'all are counted as expired');
};

is($h->check, 'clean', 'the store is clean');
$h->finish;
done_testing;
