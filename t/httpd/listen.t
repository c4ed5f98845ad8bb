#!/usr/bin/perl
# SPDX-License-Identifier: Apache-2.0
#
# Listening sockets: IPv4, IPv6, Unix with a mode, several at once; what
# becomes of a socket file that is already there; and who holds the listeners.
# A web child that kept one would leave the port listening, with nobody
# accepting, whenever the session process is gone.
use v5.36;
use FindBin ();
use lib "$FindBin::Bin/../lib";
use Test::More;
use IO::Socket::UNIX ();
use Sessiond::Test::Httpd  ();
use Sessiond::Test::Client ();
use Sessiond::Test::Net qw(has_ipv6 listeners process_group socket_inodes is_alive);

umask 022;
my $h = Sessiond::Test::Httpd->new(name => 'listen', config => <<'END' . (has_ipv6() ? <<'END6' : ''));
SessiondListen 127.0.0.1:%PORT%
SessiondListen unix:%ROOT%/default.sock
SessiondListen unix:%ROOT%/private.sock 0600
SessiondListen unix:%ROOT%/open.sock 0666
SessiondListen %PORT3%
SessiondMemory 16M
END
SessiondListen [::1]:%PORT2%
END6
my $root = $h->root;

# A socket file that its process left behind.
{
    my $stale = IO::Socket::UNIX->new(Local => "$root/default.sock", Listen => 1) or die "bind: $!";
    close $stale;
    ok(-S "$root/default.sock", 'a stale socket file is there');
}
$h->start;

my @where = ('127.0.0.1:' . $h->port, '127.0.0.1:' . $h->port(3), map { "unix:$root/$_.sock" } qw(default private open));
push @where, '[::1]:' . $h->port(2), '[::1]:' . $h->port(3) if has_ipv6();

for my $addr (@where) {
    my $c = Sessiond::Test::Client->new($addr);
    my $key = $addr =~ s{[./]}{-}gr;
    is($c->store($key, "by $addr"), 'ok', "store by $addr");
    is_deeply([$c->fetch($key)], ['ok', "by $addr"], 'and fetch');
}
my $first = Sessiond::Test::Client->new($where[0]);
is_deeply([$first->fetch($where[-1] =~ s{[./]}{-}gr)], ['ok', "by $where[-1]"], 'all are one store');
is((Sessiond::Test::Client->new($where[0])->hello)[0], 'ok', 'frames over TCP');
is((Sessiond::Test::Client->new("unix:$root/open.sock")->hello)[0], 'ok', 'frames over a Unix socket');
is(Sessiond::Test::Client->new("unix:$root/open.sock")->store('large', 'x' x 2_000_000), 'ok', '2 MB over a Unix socket');
is(length((Sessiond::Test::Client->new("unix:$root/open.sock")->fetch('large'))[1]), 2_000_000, 'and back');

is(sprintf('%04o', (stat "$root/default.sock")[2] & 07777), '0660', 'a Unix socket is 0660');
is(sprintf('%04o', (stat "$root/private.sock")[2] & 07777), '0600', 'or has the mode given');
is(sprintf('%04o', (stat "$root/open.sock")[2] & 07777), '0666', 'whatever the umask');

subtest 'who holds the listening sockets' => sub {
    my $session = $h->sessiond_pid;
    my %listens = map { $_ => 1 } map { listeners($_) } $h->port, $h->port(3), "$root/open.sock",
        has_ipv6() ? $h->port(2) : ();
    cmp_ok(scalar(keys %listens), '>=', has_ipv6() ? 4 : 3, 'they are seen in /proc');
    my %http = map { $_ => 1 } listeners($h->http_port);
    is(scalar(grep { $listens{$_} } keys %{ socket_inodes($h->pid) }), scalar(keys %listens), 'the parent keeps all of them');
    my @web = grep { $_ != $session && $_ != $h->pid } process_group($h->pid);
    ok(@web > 0, 'there are web children');
    for my $pid (@web) {
        my $open = socket_inodes($pid);
        is(scalar(grep { $listens{$_} } keys %$open), 0, "web child $pid has none of them");
        ok(scalar(grep { $http{$_} } keys %$open), 'but has the web listener, so we could see') if is_alive($pid);
    }
    SKIP: {
        skip 'the session process hides its descriptors from an ordinary user', 2
            unless -r "/proc/$session/fd/0" || $> == 0;
        my $open = socket_inodes($session);
        is(scalar(grep { $listens{$_} } keys %$open), scalar(keys %listens), 'the session process has them');
        is(scalar(grep { $http{$_} } keys %$open), 0, 'and not the web listener');
    }
};

$h->stop;
ok(!-e "$root/$_.sock", "stopped: $_.sock is gone") for qw(default private open);

subtest 'a live socket is not taken' => sub {
    my $live = IO::Socket::UNIX->new(Local => "$root/live.sock", Listen => 5) or die "bind: $!";
    $h->reconfigure("SessiondListen 127.0.0.1:%PORT%\nSessiondListen unix:$root/live.sock\nSessiondMemory 16M\n");
    my ($status, $output) = $h->try_start;
    isnt($status, 0, 'start fails with an exit code');
    like($output, qr/\Q$root\E\/live\.sock: could not bind to it; a server that runs has it/, 'and names the socket on the console');
    my $client = IO::Socket::UNIX->new(Peer => "$root/live.sock");
    ok($client, 'its owner still listens');
    $h->stop;
    ok(-S "$root/live.sock", 'and keeps the file');
};

subtest 'a directory that is missing' => sub {
    $h->reconfigure("SessiondListen unix:$root/missing/live.sock\nSessiondMemory 16M\n");
    my ($status, $output) = $h->try_start;
    isnt($status, 0, 'start fails with an exit code');
    like($output, qr/\Q$root\E\/missing\/live\.sock: could not bind to it; make its directory/, 'and says what to do');
    $h->stop;
};

subtest 'what is no socket is not removed' => sub {
    open my $fh, '>', "$root/notes" or die $!;
    print {$fh} "precious\n";
    close $fh;
    $h->reconfigure("SessiondListen 127.0.0.1:%PORT%\nSessiondListen unix:$root/notes\nSessiondMemory 16M\n");
    my ($status, $output) = $h->try_start;
    isnt($status, 0, 'start fails with an exit code');
    like($output, qr/\Q$root\E\/notes/, 'and names the file');
    $h->stop;
    is(-s "$root/notes", 9, 'the file is untouched');
};

$h->allow_log(qr/live\.sock|notes|Configuration Failed/);
$h->finish;
done_testing;
