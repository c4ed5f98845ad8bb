#!/usr/bin/perl
# SPDX-License-Identifier: Apache-2.0
#
# The deadlock: under prefork a PHP page holds a web worker while it waits for
# the session server. Were that served by web workers too, four workers and
# four overlapping pages would wait for each other for ever. So here twelve
# pages overlap on four workers, each holds its session for 100 ms, and all are
# answered within two seconds, one more page than workers after the other.
use v5.36;
use FindBin ();
use lib "$FindBin::Bin/../lib";
use Test::More;
use IO::Select       ();
use IO::Socket::INET ();
use Sessiond::Test::Httpd ();
use Sessiond::Test::Net   qw(now);

plan skip_all => 'no mod_php here' unless Sessiond::Test::Httpd->php_module;
plan skip_all => 'no prefork here'
    unless Sessiond::Test::Httpd->has_module('mpm_prefork') || Sessiond::Test::Httpd->has_module('prefork');

my $h = Sessiond::Test::Httpd->new(name => 'deadlock', php => 1, config => <<'END', docs => { 'page.php' => <<'PHP' },
SessiondListen 127.0.0.1:%PORT%
SessiondMemory 16M
END
<?php
session_start();
$_SESSION['visits'] = ($_SESSION['visits'] ?? 0) + 1;
usleep(100000);
session_write_close();
header('Content-Type: text/plain');
echo 'session ', session_id(), ' visits ', $_SESSION['visits'], " end\n";
PHP
    mpm_config => "StartServers 4\nMinSpareServers 4\nMaxSpareServers 4\nServerLimit 4\nMaxRequestWorkers 4\n")->start;
$h->allow_log(qr/MaxRequestWorkers|server is within/);

# Sends all requests at once on connections of their own. Returns for each
# [status, body, seconds].
sub overlap (@cookies) {
    my $begin = now();
    my (@answers, %number, @texts);
    my $select = IO::Select->new;
    for my $i (0 .. $#cookies) {
        my $socket = IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $h->http_port) or die "connect: $!";
        my $cookie = defined $cookies[$i] ? "Cookie: PHPSESSID=$cookies[$i]\r\n" : '';
        syswrite $socket, "GET /page.php HTTP/1.0\r\nHost: 127.0.0.1\r\n$cookie\r\n";
        $number{$socket} = $i;
        $texts[$i] = '';
        $answers[$i] = [0, 'no answer', 0];
        $select->add($socket);
    }
    while ($select->count && now() - $begin < 60) {
        for my $socket ($select->can_read(1)) {
            my $i = $number{$socket};
            next if sysread $socket, $texts[$i], 65536, length $texts[$i];
            $select->remove($socket);
            my ($status, $body) = $texts[$i] =~ m{^HTTP/\S+ (\d+).*?\r\n\r\n(.*)}s;
            $answers[$i] = [$status // 0, $body // '', now() - $begin];
        }
    }
    return @answers;
}

# One round; returns the slowest answer's time and the sessions' ids.
sub round ($name, $visits, @cookies) {
    my @answers = overlap(@cookies);
    my @good = grep { $_->[0] == 200 && $_->[1] =~ /^session \S+ visits \d+ end$/m } @answers;
    is(scalar @good, 12, "$name: all twelve pages are answered") or diag explain \@answers;
    my @ids = map { $_->[1] =~ /^session (\S+)/m ? $1 : '' } @answers;
    my %seen = map { $_ => 1 } @ids;
    if (defined $visits) {
        is(scalar keys %seen, 12, "$name: twelve sessions");
        is(scalar(grep { $_->[1] =~ / visits $visits end/ } @answers), 12, "$name: each was visited $visits times");
    }
    my ($slowest) = sort { $b <=> $a } map { $_->[2] } @answers;
    return ($slowest, @ids);
}

# A machine may stall once: the middle one of three rounds counts.
my ($first, @ids) = round('new sessions', 1, (undef) x 12);
my ($second) = round('known sessions', 2, @ids);
my ($third)  = round('known sessions again', 3, @ids);
my @sorted = sort { $a <=> $b } $first, $second, $third;
diag sprintf 'slowest of 12 pages on 4 workers: %.2f, %.2f, %.2f s', $first, $second, $third;
cmp_ok($sorted[1], '<', 2, 'all are answered within two seconds');

# The same session twelve times: they may wait for each other, not for ever.
my ($same) = round('one session', undef, ($ids[0]) x 12);
diag sprintf 'twelve pages of one session: %.2f s', $same;
cmp_ok($same, '<', 10, 'pages of one session are all answered');

is($h->value('Sessions'), 12, 'twelve sessions are kept');
is($h->check, 'clean', 'the store is clean');
$h->finish;
done_testing;
