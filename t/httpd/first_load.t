#!/usr/bin/perl
# SPDX-License-Identifier: Apache-2.0
#
# The module comes into a httpd that runs already. A restart that fails ends
# httpd, so loading us for the first time with a port that is taken must not
# fail: the log tells, the web goes on, and the next restart tries again.
use v5.36;
use FindBin ();
use lib "$FindBin::Bin/../lib";
use Test::More;
use IO::Socket::INET ();
use Sessiond::Test::Httpd  ();
use Sessiond::Test::Client ();
use Sessiond::Test::Net    qw(is_alive);

my $h = Sessiond::Test::Httpd->new(name => 'first load', module => 0)->start;
my $parent = $h->pid;
$h->{module} = Sessiond::Test::Httpd::_module_path();
$h->reconfigure("SessiondListen 127.0.0.1:%PORT%\nSessiondMemory 16M\n");

my $taken = IO::Socket::INET->new(LocalAddr => '127.0.0.1', LocalPort => $h->port, Listen => 1, ReuseAddr => 1)
    or die "cannot take the port: $!";
$h->allow_log(qr/could not bind to it/);
my ($status, $output) = $h->graceful(wait => 0);
is($status, 0, 'graceful with the port taken') or diag $output;
ok($h->eventually(sub { $h->error_log =~ /SessiondListen 127\.0\.0\.1:\d+: could not bind to it/ }), 'the log says why');
ok($h->eventually(sub { ($h->get('/ok.txt'))[0] == 200 }), 'the web is served');
ok(is_alive($parent), 'by the same parent');
is($h->status->{SessiondState}, 'off', 'no sessions yet');

close $taken;
is(($h->graceful)[0], 0, 'graceful with the port free');
my $client = Sessiond::Test::Client->new($h->port);
is($client->store('k', 'v'), 'ok', 'sessions are served');
is_deeply([$client->fetch('k')], ['ok', 'v'], 'and kept');
is($h->pid, $parent, 'all by the parent that was there from the start');
ok(is_alive($parent), 'which is alive');

$h->finish;
done_testing;
