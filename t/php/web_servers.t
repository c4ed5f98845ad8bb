#!/usr/bin/perl
# SPDX-License-Identifier: Apache-2.0
#
# web_servers.t: the requests of one user on four web servers at once, as behind a
# balancer that sends each anywhere. None of them has our module: PHP (mod_php, or
# PHP's own web server where that is not installed) asks the session server, which
# is a fifth httpd.
use v5.36;
use File::Basename qw(dirname);
use lib dirname(__FILE__) . '/lib', dirname(__FILE__) . '/../lib';
use Test::More;
use PhpTest;
use Sessiond::Test::Client ();
use Sessiond::Test::Httpd  ();
use Sessiond::Test::Net    qw(now);

plan skip_all => 'no php' unless php_binary();

use constant { SERVERS => 4, WORKERS => 12, HOLD_MS => 20 };

my $sessions = Sessiond::Test::Httpd->new(name => 'session server', config => <<'END')->start;
SessiondListen 127.0.0.1:%PORT%
SessiondLockTimeout 60
END
my $dsn = 'tcp://127.0.0.1:' . $sessions->port . '?timeout=60&persistent=on';
my @httpds;
my @web = map { web_server($_) } 1 .. SERVERS;

sub count_page () {
    open my $fh, '<', top_srcdir() . '/t/php/pages/count.php' or die $!;
    local $/;
    return readline $fh;
}

sub web_server ($n) {
    if (Sessiond::Test::Httpd->php_module) {
        my $workers = WORKERS;
        push @httpds, Sessiond::Test::Httpd->new(
            name => "web server $n", module => 0, php => 1, php_save_path => $dsn, docs => { 'count.php' => count_page() },
            mpm_config => "StartServers $workers\nMinSpareServers 1\nMaxSpareServers $workers\nMaxRequestWorkers $workers\n",
        )->start;
        return { port => $httpds[-1]->http_port };
    }
    return web(top_srcdir() . '/t/php/pages', 'session.save_path' => $dsn, env => { PHP_CLI_SERVER_WORKERS => WORKERS });
}

# One request for this session; the number it counted to, or what went wrong.
sub visit ($web, $id, $hold) {
    my ($status, $body) = web_request($web, "/count.php?hold=$hold", cookie => "PHPSESSID=$id");
    return $status == 200 && $body =~ /\bn=(\d+) pid=\d+ id=\Q$id\E / ? $1 : "status $status: $body";
}

sub stored ($id) {
    return (Sessiond::Test::Client->new($sessions->port)->fetch($id))[1] =~ /^n\|i:(\d+);$/ ? $1 : 0;
}

# Lines that a process of its own prints.
sub in_background ($code) {
    my $pid = open(my $lines, '-|') // die "fork: $!\n";
    return $lines if $pid;
    $| = 1;
    $code->();
    close STDOUT;
    POSIX::_exit(0);
}

subtest '400 increments while the session server restarts' => sub {
    my $id = 'increments-0123456789abcd';
    my @lines = map {
        my $web = $_;
        in_background(sub { say visit($web, $id, 1) for 1 .. 100 });
    } @web;
    for my $n (1 .. 10) {
        $sessions->wait_for(sub { stored($id) >= 36 * $n }, 120, 36 * $n . ' increments');
        $sessions->graceful;
    }
    my $during = stored($id);
    chomp(my @counted = map { readline $_ } @lines);
    is_deeply([sort { $a <=> $b } grep { /^\d+$/ } @counted], [1 .. 400], 'every request counted, each to a number of its own');
    is_deeply([grep { !/^\d+$/ } @counted], [], 'no request failed');
    is(stored($id), 400, 'exactly 400');
    cmp_ok($during, '<', 400, "ten graceful restarts meanwhile: the last was over at $during");
};

# They arrive one after the other, so that it is known who came when; each is sent
# when the one before it stands in the queue.
subtest '40 requests are served in the order in which they came' => sub {
    my $id     = 'in-a-queue-0123456789abcd';
    my $before = Sessiond::Test::Client->new($sessions->port, timeout => 60);
    $before->open;
    is(($before->lock($id))[0], 'ok', 'the session is locked');
    my @lines;
    for my $n (1 .. 40) {
        push @lines, in_background(sub { say join ' ', visit($web[ $n % SERVERS ], $id, HOLD_MS), now() });
        $sessions->wait_for(sub { $sessions->value('LockWaiters') == $n }, 60, "$n requests in the queue");
    }
    my $began = now();
    $before->unlock($id);
    chomp(my @answers = map { readline $_ } @lines);
    my @ended = map {/ ([\d.]+)$/} @answers;
    is_deeply([map {s/ [\d.]+$//r} @answers], [1 .. 40], '40 of 40, each in its turn');
    is(stored($id), 40, 'and all have counted');
    is($sessions->value('LocksHeld') + $sessions->value('LockWaiters'), 0, 'no lock is left');
    my ($last) = sort { $b <=> $a } @ended;
    diag(sprintf '40 x %d ms took %.3f s', HOLD_MS, $last - $began);
};

is($sessions->check, 'clean', 'the store is sound');
$_->finish for @httpds, $sessions;
done_testing();
