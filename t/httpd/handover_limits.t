#!/usr/bin/perl
# SPDX-License-Identifier: Apache-2.0
#
# Limits of descriptors at a restart: more connections are open than the new
# configuration allows, twice in a row, and the parent's own limit is lower; and
# clients have taken every descriptor that the old process may have.
use v5.36;
use FindBin ();
use lib "$FindBin::Bin/../lib";
use Test::More;
use Sessiond::Test::Httpd  ();
use Sessiond::Test::Client ();

plan skip_all => 'httpd is wrapped already' if $ENV{SESSIOND_SANITIZED};

# httpd under other limits than the test's.
sub wrapped ($limit) {
    my $real = Sessiond::Test::Httpd->httpd_binary;
    my $path = Sessiond::Test::Httpd->scratch("httpd-$limit");
    open my $fh, '>', $path or die "$path: $!";
    print {$fh} "#!/bin/sh\nulimit $limit || exit 1\nexec '$real' \"\$@\"\n";
    close $fh;
    chmod 0755, $path;
    return $path;
}

sub open_many ($h, $n) {
    return map {
        my $c = Sessiond::Test::Client->new($h->port, timeout => 60);
        ($c->hello)[0] eq 'ok' ? $c : ()
    } 1 .. $n;
}

sub all_live ($name, @c) {
    my %outcomes;
    $outcomes{ ($_->hello)[0] }++ for @c;
    is_deeply(\%outcomes, { ok => scalar @c }, $name);
    return;
}

my $real = Sessiond::Test::Httpd->httpd_binary;
my $listen = "SessiondListen 127.0.0.1:%PORT%\nSessiondMemory 16M\nSessiondThreads 2\n";

subtest 'a limit that is lowered' => sub {
    Sessiond::Test::Httpd->use_binary(wrapped('-S -n 300'));
    my $h = Sessiond::Test::Httpd->new(name => 'handover_limits', config => $listen . "SessiondMaxConnections 1000\n")->start;
    my @c = open_many($h, 700);
    is(scalar @c, 700, '700 connections');
    $h->reconfigure($listen . "SessiondMaxConnections 50\n");
    for my $n (1 .. 3) {
        is(($h->graceful)[0], 0, "graceful $n");
        all_live('every connection goes on', @c);
    }
    is($h->value('Drained') + $h->value('HandoverLost'), 0, 'none was lost');
    $h->finish;
};

subtest 'no descriptor is free' => sub {
    Sessiond::Test::Httpd->use_binary(wrapped('-n 300'));
    my $h = Sessiond::Test::Httpd->new(name => 'handover_full', config => $listen . "SessiondMaxConnections 1000\n");
    $h->allow_log(qr/descriptors may be open|cannot be accepted|descriptors are lacking|could not (?:take|ask|start)|in \d+ tries|came to nothing/);
    $h->start;
    my @c;
    while (@c < 400) {
        my $c = Sessiond::Test::Client->new($h->port, timeout => 3);
        last if ($c->hello)[0] ne 'ok';
        push @c, $c;
    }
    cmp_ok(scalar @c, '<', 400, 'at some time no more are accepted: ' . @c);
    my $old = $h->sessiond_pid;
    is(($h->graceful(wait => 0))[0], 0, 'graceful');
    my $end = $h->eventually(sub {
        return 'handed over' if $h->sessiond_pid != $old;
        return $h->error_log =~ /goes on serving/ ? 'goes on' : undef;
    });
    ok($end, 'it is over') && diag $end;
    all_live('whoever serves, every connection goes on', @c);
    is($h->value('Drained') + $h->value('HandoverLost'), 0, 'none was lost');
    $_->close for @c;
    is(($h->graceful)[0], 0, 'the next restart');
    isnt($h->sessiond_pid, $old, 'is one as any other');
    $h->finish;
};
done_testing;
