#!/usr/bin/perl
# SPDX-License-Identifier: Apache-2.0
#
# Sixty-four clients store and fetch the same eight keys, values from ten bytes
# to 300 KB: whatever is read is one whole store of that key. Every value names
# its key and version and carries a checksum, so two halves never pass for one;
# a value too short for that is one repeated byte of a length that tells the
# key. After the first store of a key no read may miss it.
use v5.36;
use FindBin ();
use lib "$FindBin::Bin/../lib";
use Test::More;
use Sessiond::Test::Httpd  ();
use Sessiond::Test::Client ();
use Sessiond::Test::Load   qw(make_value check_value);

my $SECONDS = $ENV{SESSIOND_TEST_LONG} ? 30 : 4;
my @KEYS    = map { "shared$_" } 0 .. 7;
my @SIZES   = (10, 50, 250, 256, 257, 300, 2000, 4096, 17_000, 65_536, 120_000, 300_000);

sub value_for ($key, $version, $size) {
    return chr(97 + $version % 26) x (10 + substr $key, -1) if $size < 20;
    return make_value($key, $version, $size);
}

sub is_whole ($key, $value) {
    return 1 if $value =~ /^([a-z])\1*$/ && length $value == 10 + substr $key, -1;
    return defined check_value($key, $value);
}

my $h = Sessiond::Test::Httpd->new(name => 'mixed', config => <<'END')->start;
SessiondListen 127.0.0.1:%PORT%
SessiondMemory 256M
SessiondThreads 4
END
my $c = Sessiond::Test::Client->new($h->port);
my $empty = $h->value('MemoryUsed');
is($c->store($_, value_for($_, 0, 300)), 'ok', "first store of $_") for @KEYS;

my $load = Sessiond::Test::Load->new(addr => $h->port, clients => 64, seconds => $SECONDS,
    work => sub ($client, $i, $result, $is_over) {
        my $n = 0;
        my $extended = $i % 2;
        until ($is_over->()) {
            my $key = $KEYS[rand @KEYS];
            if (rand() < 0.4) {
                my $value = value_for($key, $i * 1_000_000 + $n++, $SIZES[rand @SIZES]);
                my ($outcome, $reply) = $extended ? $client->write($key, $value) : $client->store($key, $value);
                $outcome = "type_$reply->{type}" if $outcome eq 'ok' && $reply && $reply->{type} ne 'K';
                $result->{ $outcome eq 'ok' ? 'stored' : "store_$outcome" }++;
            }
            else {
                my ($outcome, $reply) = $extended ? $client->get($key) : $client->fetch($key);
                if ($extended && $outcome eq 'ok') {
                    $outcome = 'no' if $reply->{type} ne 'V';
                    $reply = $reply->{data};
                }
                if ($outcome ne 'ok')             { $result->{"fetch_$outcome"}++ }
                elsif (is_whole($key, $reply))    { $result->{fetched}++ }
                else                              { $result->{wrong}++ }
            }
        }
    })->start;
my $sum = $load->wait;
diag $load->describe;

is($sum->{wrong}, 0, "no value is a mixture ($sum->{fetched} read, $sum->{stored} stored)");
cmp_ok($sum->{fetched}, '>', 500, 'many were read');
cmp_ok($sum->{stored}, '>', 300, 'many were stored');
is_deeply($sum->{other}, {}, 'no request failed and no key was missing at any time');
is($h->value('Sessions'), 8, 'eight sessions are there');
for my $key (@KEYS) {
    my ($outcome, $value) = $c->fetch($key);
    ok($outcome eq 'ok' && is_whole($key, $value), "$key is whole");
}
is($h->check, 'clean', 'the store is clean');
is($c->delete($_), 'ok', "delete $_") for @KEYS;
is($h->value('MemoryUsed'), $empty, 'all memory is returned');
$h->finish;
done_testing;
