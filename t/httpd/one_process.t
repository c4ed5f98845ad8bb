#!/usr/bin/perl
# SPDX-License-Identifier: Apache-2.0
#
# httpd -X: the parent is its own web worker, for debugging. What a web worker
# lets go of (sockets, the right to write to the notice board) the parent still
# needs, up to the end.
use v5.36;
use FindBin ();
use lib "$FindBin::Bin/../lib";
use Test::More;
use Sessiond::Test::Httpd  ();
use Sessiond::Test::Client ();

for my $mpm (qw(event prefork)) {
    my $h = Sessiond::Test::Httpd->new(name => "one process, $mpm", mpm => $mpm,
        config => "SessiondListen 127.0.0.1:%PORT%\nSessiondMemory 16M\n");
    my $client = Sessiond::Test::Client->new($h->port);
    my @signals;
    # httpd's event MPM leaves while its workers run, and without any module of
    # ours crashes at that about one time in forty. What we do wrong shows each time.
    for my $try (1 .. 3) {
        my $pid = fork // die "fork: $!";
        if ($pid == 0) {
            open STDOUT, '>', '/dev/null';
            open STDERR, '>', '/dev/null';
            exec Sessiond::Test::Httpd->httpd_binary, '-X', '-d', $h->root, '-f', $h->root . '/httpd.conf' or exit 127;
        }
        ok($h->eventually(sub { $client->store('k', 'v') eq 'ok' }), "$mpm: sessions are served");
        is_deeply([$client->fetch('k')], ['ok', 'v'], "$mpm: and kept");
        ok($h->eventually(sub { ($h->get('/sessiond-status?auto'))[0] == 200 }), "$mpm: the status page");
        kill TERM => $pid;
        my $ended = $h->eventually(sub { waitpid($pid, 1) == $pid }, 30);
        push @signals, $? & 127;
        kill KILL => $pid unless $ended;
        ok($ended, "$mpm: it ends on TERM");
        ok($h->eventually(sub { $client->open eq 'refused' }), "$mpm: and nobody listens any more");
        last if !$ended || $signals[-1] == 0;
    }
    $h->allow_log(qr/mpm_event:error/);    # its workers meet closed descriptors then
    is($signals[-1], 0, "$mpm: by no signal") or diag "ended by signals @signals";
    $h->finish;
}
done_testing;
