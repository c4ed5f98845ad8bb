#!/usr/bin/perl
# SPDX-License-Identifier: Apache-2.0
#
# The sharedance protocol on the wire: what S, F and D answer, and how each
# connection ends. "No" must be an orderly close without a byte and a reply
# must come whole before the end: clients tell a miss from an outage by that.
use v5.36;
use FindBin ();
use lib "$FindBin::Bin/../lib";
use Test::More;
use Sessiond::Test::Httpd  ();
use Sessiond::Test::Client qw(frame_store frame_fetch frame_delete);
use Sessiond::Test::Net    qw(nap);

my $MAX = 4 << 20;
my $h = Sessiond::Test::Httpd->new(name => 'basic', config => <<"END")->start;
SessiondListen 127.0.0.1:%PORT%
SessiondMemory 64M
SessiondMaxSize 4M
END
my $c = Sessiond::Test::Client->new($h->port);

sub is_end ($bytes, $want, $name) {
    my ($outcome, $reply) = $c->exchange($bytes);
    is_deeply([$outcome, substr $reply, 0, 80], [$want, ''], $name);
}

subtest 'store, fetch, delete' => sub {
    is($c->store('abc', 'some data'), 'ok', 'store');
    is_deeply([$c->fetch('abc')], ['ok', 'some data'], 'fetch');
    is($c->store('abc', 'other'), 'ok', 'store again');
    is_deeply([$c->fetch('abc')], ['ok', 'other'], 'the newer value');
    is($c->delete('abc'), 'ok', 'delete');
    is_deeply([$c->fetch('abc')], ['no', ''], 'fetch of what was deleted');
    is($c->delete('abc'), 'no', 'delete of what is gone');
    my $all = join '', map { chr } 0 .. 255;
    is($c->store('bytes', $all x 20), 'ok', 'store of all byte values');
    is_deeply([$c->fetch('bytes')], ['ok', $all x 20], 'they come back');
};

subtest 'empty values' => sub {
    is($c->store('empty', ''), 'ok', 'an empty value is stored');
    is_deeply([$c->fetch('empty')], ['no', ''], 'and read as nothing');
    is($c->store('empty', 'x'), 'ok', 'a value after it');
    is_deeply([$c->fetch('empty')], ['ok', 'x'], 'is read');
    is($c->store('empty', ''), 'ok', 'empty again');
    is_deeply([$c->fetch('empty')], ['no', ''], 'the older value is gone');
};

subtest 'keys' => sub {
    for my $key ('k', 'a b', ' ', '~', '!"#$%&\'()*+,-', 'a:b;c', 'k' x 254, 'k' x 255) {
        my $name = length $key > 20 ? length($key) . ' bytes' : "'$key'";
        is($c->store($key, "of $key"), 'ok', "key $name is stored");
        is_deeply([$c->fetch($key)], ['ok', "of $key"], "key $name is found");
        is($c->delete($key), 'ok', "key $name is deleted");
    }
    for my $key ('', '.', '/', '..', 'a.b', 'a/b', "a\0b", "\0", "a\n", "\x1f", "\x7f", "\x80", "\xff",
        'k' x 256, 'k' x 1000) {
        my $name = length $key > 20 ? length($key) . ' bytes' : unpack('H*', $key) || 'empty';
        is_end(frame_store($key, 'data'), 'no', "store with key $name");
        is_end(frame_fetch($key), 'no', "fetch of key $name");
        is_end(frame_delete($key), 'no', "delete of key $name");
    }
    is($h->value('Sessions'), do { $c->store('one', 1); $h->value('Sessions') } - 1, 'none of these was kept');
    ok($h->value('BadRequests') > 0, 'bad keys were counted');
};

subtest 'what is no request' => sub {
    for my $bytes ('X', "X\0\0\0\1a", "\0", "\xff" x 100, "s\0\0\0\1\0\0\0\1ab", "get a\r\n", "\r\n", ' ') {
        is_end($bytes, 'no', 'unknown operation ' . unpack 'H*', substr $bytes, 0, 8);
    }
    is_end("\0" x 5000, 'no', 'five thousand zero bytes');
};

subtest 'bytes beyond the request: it is not executed' => sub {
    $c->store('keep', 'kept');
    is_end(frame_store('keep', 'lost') . 'x', 'no', 'store and one byte more');
    is_deeply([$c->fetch('keep')], ['ok', 'kept'], 'the old value stays');
    is_end(frame_delete('keep') . "\n", 'no', 'delete and a newline');
    is_deeply([$c->fetch('keep')], ['ok', 'kept'], 'nothing was deleted');
    is_end(frame_fetch('keep') . frame_fetch('keep'), 'no', 'two requests at once');
    is_end(frame_store('new', 'x') . frame_fetch('new'), 'no', 'store and fetch at once');
    is_deeply([$c->fetch('new')], ['no', ''], 'nothing was stored');
};

subtest 'half-close' => sub {
    my $big = join '', map { pack 'N', $_ } 1 .. 100_000;
    for my $request ([frame_store('half', $big), "OK\n"], [frame_fetch('half'), $big], [frame_delete('half'), "OK\n"]) {
        my ($outcome, $reply) = $c->exchange($request->[0], half_close => 1);
        is($outcome, 'ok', substr($request->[0], 0, 1) . ' by a client that half-closes');
        ok($reply eq $request->[1], 'its reply is whole');
    }
    my $before = $h->value('Stores');
    is(($c->exchange(substr(frame_store('cut', 'x' x 1000), 0, 500), half_close => 1))[1], '',
        'a request cut short by a half-close has no reply');
    is_deeply([$c->fetch('cut')], ['no', ''], 'and is not executed');
    is($h->value('Stores'), $before, 'nor counted as a store');
};

subtest 'byte by byte' => sub {
    my $slow = Sessiond::Test::Client->new($h->port)->no_delay;
    for my $step ([frame_store('drip', 'slow data'), "OK\n"], [frame_fetch('drip'), 'slow data'],
        [frame_delete('drip'), "OK\n"]) {
        is($slow->open, 'ok', 'connect');
        for my $byte (split //, $step->[0]) {
            $slow->send($byte);
            nap(0.002);
        }
        is_deeply([$slow->read_all], ['ok', $step->[1]], substr($step->[0], 0, 1) . ' in single bytes');
    }
};

subtest 'idle connections first' => sub {
    my @idle = map { Sessiond::Test::Client->new($h->port) } 1 .. 50;
    is(scalar(grep { $_->open eq 'ok' } @idle), 50, 'fifty connections that say nothing');
    is($c->store('idle', 'others work'), 'ok', 'another one stores');
    is_deeply([$c->fetch('idle')], ['ok', 'others work'], 'and fetches');
    is_deeply([$idle[7]->send(frame_fetch('idle')), $idle[7]->read_all], ['ok', 'ok', 'others work'],
        'an idle one speaks after all');
    $_->abort for grep { $_->is_open } @idle[20 .. 29];
    is_deeply([$c->fetch('idle')], ['ok', 'others work'], 'some left with a reset: no harm');
};

subtest 'large values' => sub {
    my $two = join '', map { pack 'N', $_ * 2_654_435_761 & 0xffff_ffff } 1 .. (2 << 20) / 4;
    is($c->store('large', $two), 'ok', 'two megabytes are stored');
    my ($outcome, $data) = $c->fetch('large');
    is($outcome, 'ok', 'and fetched');
    ok($data eq $two, 'byte for byte');
    my $most = 'm' x ($MAX - length 'most');
    is($c->store('most', $most), 'ok', 'exactly SessiondMaxSize');
    ok((($c->fetch('most'))[1] // '') eq $most, 'comes back');
    is_end(frame_store('most', $most . 'x'), 'no', 'one byte more is refused by an orderly close');
    ok((($c->fetch('most'))[1] // '') eq $most, 'the value before it stays');
    $c->delete($_) for qw(large most);
};

subtest 'declared lengths cost nothing' => sub {
    my $oversized = $h->value('OversizedRequests');
    my $used      = $h->value('MemoryUsed');
    my @held;
    for my $declared ([3, 0xffff_ffff], [0xffff_ffff, 3], [0xffff_ffff, 0xffff_ffff], [0x8000_0000, 0x8000_0000],
        [1, 0x7fff_ffff], [3, $MAX + 1]) {
        my $client = Sessiond::Test::Client->new($h->port);
        is_deeply([$client->exchange(pack('a1 N N', 'S', @$declared) . 'abc')], ['no', ''],
            sprintf 'store that declares %u + %u bytes', @$declared);
    }
    is_end(pack('a1 N', $_, 0xffff_ffff) . 'abc', 'no', "$_ that declares a key of 4 GiB") for qw(F D);
    ok($h->value('OversizedRequests') > $oversized, 'they were counted');
    for (1 .. 20) {
        my $client = Sessiond::Test::Client->new($h->port);
        $client->open;
        $client->send(pack('a1 N N', 'S', 3, $MAX - 3) . 'abc');
        push @held, $client;
    }
    is($c->store('beside', 'x'), 'ok', 'twenty clients that announce 4 MB and send nothing take no memory');
    ok($h->value('MemoryUsed') - $used < 1 << 20, 'memory is taken as bytes arrive');
};

is($h->check, 'clean', 'the store is clean');
$h->finish;
done_testing;
