#!/usr/bin/perl
# SPDX-License-Identifier: Apache-2.0
#
# The extended frames P, G and W on a connection that stays: replies in order,
# the fence by version, and what a bad, an oversized or a foreign frame gets.
# A pooled connection outlives the request that opened it, so each end and each
# stay of the connection is looked at, not the replies alone.
use v5.36;
use FindBin ();
use lib "$FindBin::Bin/../lib";
use Test::More;
use Sessiond::Test::Httpd  ();
use Sessiond::Test::Client qw(frame_store frame_fetch frame_delete frame_hello frame_get frame_write ANY_VERSION);
use Sessiond::Test::Net    qw(now);

my $MAX  = 1 << 20;
my $DAYS = 30 * 86_400;
my $h = Sessiond::Test::Httpd->new(name => 'extended', config => <<"END")->start;
SessiondListen 127.0.0.1:%PORT%
SessiondMemory 64M
SessiondMaxSize 1M
END
my $c = Sessiond::Test::Client->new($h->port);

sub types (@replies) { return join '', map { $_->{type} } @replies }

# The connection still answers.
sub stays ($client, $name) {
    my ($outcome, $reply) = $client->hello('stay-123');
    is_deeply([$outcome, $reply->{nonce}], ['ok', 'stay-123'], "$name: the connection stays");
}

# After bytes on a new connection the server says E and closes: the replies'
# types up to the end, and how it ended.
sub ends ($bytes) {
    my $client = Sessiond::Test::Client->new($h->port);
    my ($outcome, $answer) = $client->exchange($bytes);
    my @replies;
    while (my $reply = Sessiond::Test::Client::parse_reply(\$answer)) { push @replies, $reply }
    return (types(@replies) . ($answer eq '' ? '' : '+rubbish'), $outcome, @replies);
}

subtest 'hello' => sub {
    my ($outcome, $reply) = $c->hello("n\0nce\xff!!");
    is($outcome, 'ok', 'answered');
    is($reply->{type}, 'K', 'by K');
    is($reply->{nonce}, "n\0nce\xff!!", 'with the nonce');
    like($reply->{text}, qr{^mod_sessiond/\d+\.\d+\S*(?: |$)}, 'and the name and version');
    my ($again, $second) = $c->hello('87654321');
    is_deeply([$again, $second->{nonce}], ['ok', '87654321'], 'on the same connection once more');
};

subtest 'get and write' => sub {
    my (undef, $none) = $c->get('first');
    is_deeply([@$none{qw(type body)}], ['N', ''], 'get of what is not there: N');
    my (undef, $written) = $c->write('first', 'one', 0, 0);
    is($written->{type}, 'K', 'a first write against version 0');
    ok($written->{version} > 0, 'its version is not 0');
    my (undef, $read) = $c->get('first');
    is_deeply([@$read{qw(type data version)}], ['V', 'one', $written->{version}], 'get: the data and that version');
    my (undef, $next) = $c->write('first', 'two', 0, $read->{version});
    is($next->{type}, 'K', 'a write against the version read');
    ok($next->{version} > $read->{version}, 'makes a newer one');
    my (undef, $empty) = $c->write('empty', '', 0, 0);
    is($empty->{type}, 'K', 'an empty value');
    my (undef, $got) = $c->get('empty');
    is_deeply([@$got{qw(type data version)}], ['V', '', $empty->{version}], 'is a value here');
    is_deeply([Sessiond::Test::Client->new($h->port)->fetch('empty')], ['no', ''], 'and nothing for F');
};

subtest 'the fence' => sub {
    my $other = Sessiond::Test::Client->new($h->port);
    my (undef, $v1) = $c->write('fence', 'mine', 0, 0);
    my (undef, $again) = $c->write('fence', 'not again', 0, 0);
    is_deeply([@$again{qw(type body)}], ['B', ''], 'version 0 means absent: B');
    my (undef, $v2) = $other->write('fence', 'theirs', 0, $v1->{version});
    is($v2->{type}, 'K', 'another connection writes');
    my (undef, $late) = $c->write('fence', 'late', 0, $v1->{version});
    is($late->{type}, 'B', 'a write against the older version: B');
    is((($c->get('fence'))[1])->{data}, 'theirs', 'what was written stays');
    is((($c->write('fence', 'future', 0, $v2->{version} + 1))[1])->{type}, 'B', 'a version that is not yet: B');
    my (undef, $v3) = $c->write('fence', 'forced', 0, ANY_VERSION);
    is($v3->{type}, 'K', 'all ones: unconditional');
    is(Sessiond::Test::Client->new($h->port)->delete('fence'), 'ok', 'removed by D');
    is((($c->write('fence', 'revived', 0, $v3->{version}))[1])->{type}, 'B', 'a removed session is not revived');
    is((($c->get('fence'))[1])->{type}, 'N', 'it is gone');
    my (undef, $v4) = $c->write('fence', 'anew', 0, 0);
    is($v4->{type}, 'K', 'absent again: version 0 writes');
    ok($v4->{version} > $v3->{version}, 'a version is never used twice');
    is(Sessiond::Test::Client->new($h->port)->store('fence', 'by S'), 'ok', 'S writes without a version');
    is((($c->write('fence', 'x', 0, $v4->{version}))[1])->{type}, 'B', 'and changes it');
    is((($c->write('unseen', 'x', 0, ANY_VERSION))[1])->{type}, 'K', 'all ones on an absent key');
    ok($h->value('WritesFenced') >= 5, 'fenced writes are counted');
};

subtest 'one store for both protocols' => sub {
    my $plain = Sessiond::Test::Client->new($h->port);
    is($plain->store('both', 'from S'), 'ok', 'S');
    is((($c->get('both'))[1])->{data}, 'from S', 'read by G');
    is((($c->write('both', 'from W'))[1])->{type}, 'K', 'W');
    is_deeply([$plain->fetch('both')], ['ok', 'from W'], 'read by F');
    is($plain->delete('both'), 'ok', 'D');
    is((($c->get('both'))[1])->{type}, 'N', 'gone for G');
};

subtest 'keys' => sub {
    for my $key ('k', '!', '~', 'a.b/c', "\x80", "\xff" x 250, 'k' x 250) {
        my $name = length $key > 20 ? length($key) . ' bytes' : unpack 'H*', $key;
        my (undef, $w) = $c->write($key, 'v');
        my (undef, $g) = $c->get($key);
        is_deeply([$w->{type}, $g->{type}, $g->{data}], ['K', 'V', 'v'], "key $name");
    }
    for my $key ('', ' ', 'a b', "a\0", "\n", "\x7f", 'k' x 251, 'k' x 255) {
        my $name = length $key > 20 ? length($key) . ' bytes' : unpack('H*', $key) || 'empty';
        my ($outcome, $g) = $c->get($key);
        is_deeply([$outcome, $g->{type}], ['ok', 'E'], "get of key $name: E");
        like($g->{text} // '', qr/\w+ \w+/, 'with a sentence');
        ($outcome, my $w) = $c->write($key, 'v' x 1000, 0, 0);
        is_deeply([$outcome, $w->{type}], ['ok', 'E'], "write of key $name: E, the value is discarded");
        stays($c, "key $name");
    }
};

subtest 'ttl' => sub {
    for my $ttl (0, 1, 1800, $DAYS) {
        is((($c->write("ttl-$ttl", 'v', $ttl))[1])->{type}, 'K', "ttl $ttl");
    }
    for my $ttl ($DAYS + 1, 0x7fff_ffff, 0xffff_ffff) {
        my ($outcome, $reply) = $c->write('ttl-bad', 'v', $ttl);
        is_deeply([$outcome, $reply->{type}], ['ok', 'E'], "ttl $ttl: E");
        stays($c, "ttl $ttl");
    }
    is((($c->get('ttl-bad'))[1])->{type}, 'N', 'nothing was written');
};

subtest 'oversized and unknown: E and the end' => sub {
    for my $case (
        ['a write that declares 4 GiB', pack('a1 N N N Q>', 'W', 3, 0xffff_ffff, 0, 0) . 'abc'],
        ['a key of 4 GiB',              pack('a1 N N N Q>', 'W', 0xffff_ffff, 3, 0, 0) . 'abc'],
        ['a sum that overflows',        pack('a1 N N N Q>', 'W', 0x8000_0000, 0x8000_0000, 0, 0)],
        ['a get of a key of 4 GiB',     pack('a1 N', 'G', 0xffff_ffff)],
        ['a write one byte too large',  frame_write('abc', 'x' x ($MAX - 2))],
        ['an unknown frame',            "Z\0\0\0\1a"],
        ) {
        my ($name, $bytes) = @$case;
        my $begin = now();
        my ($types, $outcome, @replies) = ends(frame_hello('12345678') . $bytes);
        is_deeply([$types, $outcome], ['KE', 'ok'], "$name: E, then an orderly close");
        like($replies[1]{text} // '', qr/\w+ \w+/, 'with a sentence');
        ok(now() - $begin < 15, 'in time');
    }
    my (undef, $w) = $c->write('abc', 'x' x ($MAX - 3));
    is($w->{type}, 'K', 'exactly SessiondMaxSize is written');
};

subtest 'pipelining' => sub {
    my @frames = (frame_hello('pipeline'), map { (frame_write("pipe$_", "value $_", 0, 0), frame_get("pipe$_")) } 1 .. 50);
    my ($outcome, @replies) = $c->call(@frames);
    is($outcome, 'ok', 'a hundred frames and a hello in one write');
    is(types(@replies), 'K' . 'KV' x 50, 'as many replies, in order');
    is_deeply([map { $replies[2 * $_]{data} // '?' } 1 .. 50], [map { "value $_" } 1 .. 50], 'each its own');
    my $slow = Sessiond::Test::Client->new($h->port)->no_delay;
    $slow->open;
    for my $byte (split //, join '', @frames[0 .. 4]) { $slow->send($byte) }
    my @types = map { ($slow->read_reply)[1]{type} // '?' } 0 .. 4;
    is("@types", 'K B V B V', 'byte by byte the same frames');
    my $large = 'L' x 200_000;
    $c->write('large', $large);
    ($outcome, @replies) = $c->call((frame_get('large')) x 20);
    is(scalar(grep { $_->{data} eq $large } @replies), 20, 'twenty large replies in a row');
};

subtest 'S, F and D end a persistent connection' => sub {
    for my $case ([frame_store('last', 'word'), "OK\n"], [frame_fetch('last'), 'word'], [frame_delete('last'), "OK\n"]) {
        my $client = Sessiond::Test::Client->new($h->port);
        my ($hello) = $client->hello;
        is($hello, 'ok', 'hello');
        $client->send($case->[0]);
        is_deeply([$client->read_all], ['ok', $case->[1]], substr($case->[0], 0, 1) . ' runs once, then the end');
    }
    my ($outcome, $bytes) = Sessiond::Test::Client->new($h->port)->exchange(
        frame_hello('12345678') . frame_write('seq', 'w') . frame_store('seq', 's'));
    is($outcome, 'ok', 'P, W and S in one write');
    like($bytes, qr/^K....12345678mod_sessiond.*K\0\0\0\x08.{8}OK\n$/s, 'all three replies, then the end');
    is_deeply([Sessiond::Test::Client->new($h->port)->fetch('seq')], ['ok', 's'], 'in their order');
};

subtest 'a half-close after frames' => sub {
    my ($outcome, $bytes) = Sessiond::Test::Client->new($h->port)->exchange(
        frame_hello('12345678') . frame_write('half', 'closed') . frame_get('half'), half_close => 1);
    is($outcome, 'ok', 'complete frames before it are answered');
    like($bytes, qr/closed$/, 'to the last');
};

subtest 'strangers to the protocol get an end' => sub {
    my $tls = pack('H*', '1603010200010001fc0303') . "\x5a" x 506;
    for my $case (
        ['HTTP GET',          "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"],
        ['HTTP POST',         "POST /a HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\n\r\nabc"],
        ['HTTP HEAD',         "HEAD / HTTP/1.1\r\nHost: localhost\r\n\r\n"],
        ['HTTP/2 preface',    "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"],
        ['TLS hello',         $tls],
        ['memcached text',    "get key\r\n"],
        ['memcached set',     "set key 0 0 3\r\nabc\r\n"],
        ['memcached binary',  "\x80\x00\x00\x03" . "\0" x 20 . 'abc'],
        ['redis',             "*1\r\n\$4\r\nPING\r\n"],
        ['SSH',               "SSH-2.0-OpenSSH_9.2\r\n"],
        ) {
        my ($name, $bytes) = @$case;
        my $begin = now();
        my $client = Sessiond::Test::Client->new($h->port, timeout => 15);
        my ($outcome, $answer) = $client->exchange($bytes);
        # A frame letter by chance is answered as that frame; nothing else is.
        like("$outcome", qr/^(?:no|ok)$/, "$name: an orderly end");
        unlike($answer, qr/OK\n|^V/, 'nothing was stored or told');
        ok(now() - $begin < 15, 'in time');
    }
};

is($h->check, 'clean', 'the store is clean');
$h->finish;
done_testing;
