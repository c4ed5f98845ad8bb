#!/usr/bin/perl
# SPDX-License-Identifier: Apache-2.0
#
# SessiondAllow: by default this host only, by loopback or by any address of
# its own; strangers are reset without a byte, counted, and logged once per
# address and minute.
#
# A stranger needs an address that isn't this host's. The test makes a network
# of its own for that: it starts itself again in an empty network namespace,
# joins a second one by a cable, and lets clients call from there. Nothing of
# the machine's network is touched, and all ends with the two processes. An
# ordinary user may not do that and tests what there is: the own addresses.
use v5.36;
use FindBin ();
use lib "$FindBin::Bin/../lib";
use Test::More;
use Sessiond::Test::Httpd  ();
use Sessiond::Test::Client qw(frame_store frame_fetch);
use Sessiond::Test::Net    qw(nap now has_ipv6);

my $inside = ($ENV{SESSIOND_TEST_NETNS} // '') eq 'inside';
if (!$inside && $> == 0 && system('unshare -n ip link set lo up >/dev/null 2>&1') == 0) {
    $ENV{SESSIOND_TEST_NETNS} = 'inside';
    exec 'unshare', '-n', $^X, $0, @ARGV;
}

# A stranger's end of the cable: a process in a namespace of its own that
# connects as it is told, line by line, and answers with the outcome.
my ($far_pid, $far_in, $far_out, $has_far, $far_six);
if ($inside) {
    pipe my $child_in, $far_in   or die $!;
    pipe $far_out, my $child_out or die $!;
    my $parent_netns = readlink '/proc/self/ns/net';
    $far_pid = fork // die "fork: $!";
    if ($far_pid == 0) {
        close $_ for $far_in, $far_out;
        open STDIN,  '<&', $child_in;
        open STDOUT, '>&', $child_out;
        exec 'unshare', '-n', $^X, "-I$FindBin::Bin/../lib", '-MSessiond::Test::Client', '-e', <<'END' or POSIX::_exit(1);
            $| = 1;
            print readlink('/proc/self/ns/net'), "\n";
            while (my $line = <STDIN>) {
                my ($to, $from, $hex) = split ' ', $line;
                my $c = Sessiond::Test::Client->new($to, from => $from, timeout => 20);
                my ($outcome, $reply) = $c->exchange(pack 'H*', $hex);
                print "$outcome ", unpack('H*', $reply), "\n";
            }
END
    }
    close $_ for $child_in, $child_out;
    $far_in->autoflush(1);
    chomp(my $far_netns = readline($far_out) // '');
    my $ip = sub { return system("ip @_ >/dev/null 2>&1") == 0 };
    $has_far = $far_netns ne '' && $far_netns ne $parent_netns
        && $ip->('link set lo up')
        && $ip->('link add sdnear type veth peer name sdfar')
        && $ip->("link set sdfar netns $far_pid")
        && $ip->('addr add 10.99.0.1/24 dev sdnear') && $ip->('link set sdnear up')
        && system("nsenter -t $far_pid -n sh -c 'ip link set lo up; ip link set sdfar up;"
            . " for n in 2 3 4; do ip addr add 10.99.0.\$n/24 dev sdfar; done' >/dev/null 2>&1") == 0;
    if ($has_far && has_ipv6()) {
        $far_six = $ip->('addr add fd99::1/64 dev sdnear nodad')
            && system("nsenter -t $far_pid -n sh -c 'ip addr add fd99::2/64 dev sdfar nodad;"
            . " ip addr add fd99::3/64 dev sdfar nodad' >/dev/null 2>&1") == 0;
    }
}

sub far ($to, $from, $bytes) {
    print {$far_in} "$to $from ", unpack('H*', $bytes), "\n";
    my ($outcome, $hex) = split / /, readline($far_out) // 'dead ';
    chomp $hex;
    return ($outcome, pack 'H*', $hex);
}

# The host's own addresses that are not loopback.
my @own = $inside ? ($has_far ? '10.99.0.1' : (), $far_six ? '[fd99::1]' : ())
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
    skip 'strangers need a network namespace (root and util-linux)', 1 unless $has_far;
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
        if ($far_six) {
            is_deeply([far("[fd99::1]:$port", 'fd99::2', $store)], ['reset', ''], 'over IPv6 as well');
        }
        unlike($h->error_log, qr/::ffff:/, 'mapped addresses are logged as IPv4');
    };

    my $allow = $far_six ? "SessiondAllow 10.99.0.2 fd99::2/128\n" : "SessiondAllow 10.99.0.2\n";
    subtest 'an address that is allowed' => sub {
        $h->reconfigure($config . $allow)->graceful;
        is_deeply([far($to, '10.99.0.2', $store)], ['ok', "OK\n"], 'is served');
        is_deeply([far($to, '10.99.0.3', $store)], ['reset', ''], 'its neighbour is not');
        is((Sessiond::Test::Client->new($port)->fetch('stranger'))[1], 'x', 'this host is still allowed');
        SKIP: {
            skip 'no IPv6', 2 unless $far_six;
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
        is((far("[fd99::1]:$port", 'fd99::3', $store))[0], 'ok', 'over IPv6 as well') if $far_six;
    };

    subtest 'and back' => sub {
        $h->reconfigure($config)->graceful;
        is_deeply([far($to, '10.99.0.2', $store)], ['reset', ''], 'without SessiondAllow a stranger is one again');
    };

    close $far_in;
    waitpid $far_pid, 0;
}

$h->allow_log(qr/10\.99\.0\.|fd99::/);
$h->finish;
done_testing;
