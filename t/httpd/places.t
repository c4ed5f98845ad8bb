#!/usr/bin/perl
# SPDX-License-Identifier: Apache-2.0
#
# Sockets of one kind after sockets of another. A Unix socket is not asked for
# the allow-list and cannot be reset; what takes its place in our list after a
# restart must not inherit that.
use v5.36;
use FindBin ();
use lib "$FindBin::Bin/../lib";
use Test::More;
use Sessiond::Test::Httpd  ();
use Sessiond::Test::Client ();

my $common = "SessiondMemory 16M\nSessiondTimeout 1\n";
my $unix   = "SessiondListen unix:%ROOT%/s.sock\n";
my @tcp    = map { "SessiondListen 127.0.0.1:%PORT$_%\n" } 1 .. 2;

my $h = Sessiond::Test::Httpd->new(name => 'places', config => $common . $unix)->start;
my $path = $h->root . '/s.sock';
is(Sessiond::Test::Client->new("unix:$path")->store('k', 'v'), 'ok', 'a Unix socket');

is(($h->reconfigure($common . $tcp[0])->graceful)[0], 0, 'replaced by TCP');
is(($h->reconfigure($common . $tcp[0] . $tcp[1])->graceful)[0], 0, 'then one more');
ok(!-e $path, 'the file of the Unix socket is gone');
for my $n (1 .. 2) {
    my $client = Sessiond::Test::Client->new($h->port($n));
    is_deeply([$client->fetch('k')], ['ok', 'v'], "socket $n serves");
    my ($outcome) = $client->exchange("F\0\0");
    is($outcome, 'reset', "and half a request ends in a reset");
}

is(($h->reconfigure($common . $unix)->graceful)[0], 0, 'back to the Unix socket');
is_deeply([Sessiond::Test::Client->new("unix:$path")->fetch('k')], ['ok', 'v'], 'which serves again');
is(Sessiond::Test::Client->new($h->port)->store('k', 'v'), 'refused', 'and the others are closed');

# A link in the place of the socket is not followed when the mode changes.
my $victim = $h->root . '/victim';
open my $fh, '>', $victim or die $!;
close $fh;
chmod 0600, $victim;
rename $path, "$path.away" or die $!;
symlink $victim, $path or die $!;
$h->allow_log(qr/could not bind/);
is(($h->reconfigure($common . "SessiondListen unix:%ROOT%/s.sock 0666\n")->graceful)[0], 0, 'a new mode');
is((stat $victim)[2] & 0777, 0600, 'a link is not followed');
unlink $path;
rename "$path.away", $path or die $!;

$h->finish;
done_testing;
