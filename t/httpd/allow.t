#!/usr/bin/perl
# SPDX-License-Identifier: Apache-2.0
#
# SessiondAllow: by default this host only, by loopback or by any address of
# its own; strangers are reset without a byte, counted, and logged once per
# address and minute. Where no network namespace can be had, the own addresses
# are tried and nothing else.
use v5.36;
use FindBin ();
use lib "$FindBin::Bin/../lib";
use Test::More;
use Sessiond::Test::Httpd    ();
use Sessiond::Test::Client   qw(frame_store frame_fetch);
use Sessiond::Test::Net      qw(has_ipv6);
use Sessiond::Test::Stranger ();

my $stranger = Sessiond::Test::Stranger->new;
my $six      = $stranger && $stranger->has_six;

sub far ($to, $from, $bytes) { return $stranger->exchange($to, $from, $bytes) }

# The host's own addresses that are not loopback.
my @own = $stranger ? ('10.99.0.1', $six ? '[fd99::1]' : ())
    : map { /:/ ? "[$_]" : $_ } grep { $_ && !/^(?:127\.|::1$|fe80)/i }
    map { m{inet6? ([^/ ]+)/} } grep { /scope global/ } `ip -o addr show up 2>/dev/null`;

my $config = "SessiondListen %PORT%\nSessiondMemory 16M\nSessiondThreads 4\n";
my $h = Sessiond::Test::Httpd->new(name => 'allow', config => $config)->start;
my $port = $h->port;

subtest 'this host is always allowed' => sub {
    for my $host ('127.0.0.1', '127.0.0.2', has_ipv6() ? '[::1]' : (), @own) {
        my $c = Sessiond::Test::Client->new("$host:$port");
        is($c->store('own', "from $host"), 'ok', "to $host");
        is_deeply([$c->fetch('own')], ['ok', "from $host"], 'and back');
    }
    my $c = Sessiond::Test::Client->new("127.0.0.1:$port", from => '127.0.0.9');
    is($c->store('loop', 'back'), 'ok', 'from another loopback address');
    is($h->value('RefusedAddress'), 0, 'nobody was refused');
};

SKIP: {
    skip 'strangers need a network namespace (root and util-linux)', 1 unless $stranger;
    my $to = "10.99.0.1:$port";
    my $store = frame_store('stranger', 'x');

    subtest 'by default a stranger is reset' => sub {
        Sessiond::Test::Client->new($port)->store('secret', 'data');
        for (1 .. 25) {
            is_deeply([far($to, '10.99.0.2', frame_fetch('secret'))], ['reset', ''], 'without a byte');
        }
        is_deeply([far($to, '10.99.0.2', $store)], ['reset', ''], 'nor may it store');
        is((Sessiond::Test::Client->new($port)->fetch('stranger'))[0], 'no', 'nothing was stored');
        is($h->value('RefusedAddress'), 26, 'all were counted');
        my @lines = grep { /10\.99\.0\.2/ } split /\n/, $h->error_log;
        is(scalar(@lines), 1, 'and logged once') or diag join "\n", @lines;
        far($to, '10.99.0.3', $store);
        $h->wait_for(sub { $h->error_log =~ /10\.99\.0\.3/ }, 20, 'a line for the next address');
        if ($six) {
            is_deeply([far("[fd99::1]:$port", 'fd99::2', $store)], ['reset', ''], 'over IPv6 as well');
        }
        unlike($h->error_log, qr/::ffff:/, 'mapped addresses are logged as IPv4');
    };

    my $allow = $six ? "SessiondAllow 10.99.0.2 fd99::2/128\n" : "SessiondAllow 10.99.0.2\n";
    subtest 'an address that is allowed' => sub {
        $h->reconfigure($config . $allow)->graceful;
        is_deeply([far($to, '10.99.0.2', $store)], ['ok', "OK\n"], 'is served');
        is_deeply([far($to, '10.99.0.3', $store)], ['reset', ''], 'its neighbour is not');
        is((Sessiond::Test::Client->new($port)->fetch('stranger'))[1], 'x', 'this host is still allowed');
        SKIP: {
            skip 'no IPv6', 2 unless $six;
            is_deeply([far("[fd99::1]:$port", 'fd99::2', $store)], ['ok', "OK\n"], 'so for IPv6');
            is_deeply([far("[fd99::1]:$port", 'fd99::3', $store)], ['reset', ''], 'its neighbour is not');
        }
    };

    subtest 'a network' => sub {
        $h->reconfigure($config . "SessiondAllow 10.99.0.2/31\n")->graceful;
        is_deeply([map { (far($to, "10.99.0.$_", $store))[0] } 2, 3, 4], [qw(ok ok reset)], '10.99.0.2/31 ends at .3');
        $h->reconfigure($config . "SessiondAllow 192.168.0.0/16\nSessiondAllow 10.99.0.0/24\n")->graceful;
        is_deeply([map { (far($to, "10.99.0.$_", $store))[0] } 2, 3, 4], [qw(ok ok ok)], 'a second line adds to the first');
    };

    subtest 'all' => sub {
        $h->reconfigure($config . "SessiondAllow all\n")->graceful;
        is_deeply([map { (far($to, "10.99.0.$_", $store))[0] } 2, 3, 4], [qw(ok ok ok)], 'everybody');
        is((far("[fd99::1]:$port", 'fd99::3', $store))[0], 'ok', 'over IPv6 as well') if $six;
    };

    subtest 'and back' => sub {
        $h->reconfigure($config)->graceful;
        is_deeply([far($to, '10.99.0.2', $store)], ['reset', ''], 'without SessiondAllow a stranger is one again');
    };

}

$h->allow_log(qr/10\.99\.0\.|fd99::/);
$h->finish;
done_testing;
