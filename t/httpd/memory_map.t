#!/usr/bin/perl
# SPDX-License-Identifier: Apache-2.0
#
# The store is mapped by the session process and by no other child: a web
# worker that was taken over, or a CGI daemon, can neither read nor change a
# session, nor has it the listening socket to answer in its place. Looked at
# from both sides: no such mapping in /proc/PID/maps, and the bytes of a session
# are found in the session process's memory, so they could be, and in no other.
use v5.36;
use FindBin ();
use lib "$FindBin::Bin/../lib";
use Test::More;
use Sessiond::Test::Httpd  ();
use Sessiond::Test::Client ();
use Sessiond::Test::Net    qw(listeners process_group socket_inodes is_alive);

my $SIZE = 37 << 20;        # a size that nothing else has

# [first, last, permissions, what] of each mapping.
sub maps ($pid) {
    no warnings 'portable';     # addresses have 64 bits
    open my $fh, '<', "/proc/$pid/maps" or return;
    return map { /^([0-9a-f]+)-([0-9a-f]+) (\S+) \S+ \S+ \S+\s*(.*)$/ ? [hex $1, hex $2, $3, $4] : () } readline $fh;
}

sub store_mappings ($pid) {
    return grep { $_->[2] =~ /s$/ && $_->[1] - $_->[0] >= $SIZE && $_->[1] - $_->[0] < $SIZE + (4 << 20) } maps($pid);
}

# 1 or 0: these bytes are in the memory of the process or not; undef when we
# may not look.
sub has_bytes ($pid, $bytes) {
    open my $mem, '<:raw', "/proc/$pid/mem" or return undef;
    my $looked = 0;
    for my $map (grep { $_->[2] =~ /^r/ && $_->[3] !~ /^\[v/ } maps($pid)) {
        my ($at, $end) = @$map;
        my $tail = '';
        while ($at < $end) {
            my $want = $end - $at > 1 << 20 ? 1 << 20 : $end - $at;
            sysseek $mem, $at, 0 or last;
            my $got = sysread $mem, my ($piece), $want;
            last unless $got;
            $looked += $got;
            return 1 if index($tail . $piece, $bytes) >= 0;
            $tail = substr $piece, -length $bytes;
            $at += $got;
        }
    }
    return $looked ? 0 : undef;
}

for my $mpm (qw(event prefork)) {
    my $cgid = Sessiond::Test::Httpd->has_module('cgid');
    my $h = Sessiond::Test::Httpd->new(name => 'memory_map', mpm => $mpm,
        modules => [$cgid ? 'cgid' : ()], config => <<'END')->start;
SessiondListen 127.0.0.1:%PORT%
SessiondMemory 37M
END
    my $c = Sessiond::Test::Client->new($h->port);
    # Put together here, so that no other memory has it by chance.
    my $secret = join '-', map { sprintf '%08x', int rand 0xffff_ffff } 1 .. 6;
    is($c->store('secret', "$secret " x 20), 'ok', "$mpm: a session");

    my $look = sub ($when) {
        my $session = $h->sessiond_pid;
        $h->get('/ok.txt') for 1 .. 20;
        my @web = grep { $_ != $session && $_ != $h->pid } process_group($h->pid);
        SKIP: {
            skip "an ordinary user may not look into httpd's children", 1 unless @web && maps($web[0]) && maps($session);
            subtest "$mpm, $when: mappings and listeners" => sub {
                is(scalar(store_mappings($session)), 1, 'the session process maps the store');
                my %listens = map { $_ => 1 } listeners($h->port);
                my %http    = map { $_ => 1 } listeners($h->http_port);
                my $daemons = 0;
                for my $pid (grep { is_alive($_) } @web) {
                    is_deeply([store_mappings($pid)], [], "child $pid does not");
                    # One that is being forked this moment is about to let go.
                    my $open;
                    $h->eventually(sub { $open = socket_inodes($pid); !grep { $listens{$_} } keys %$open }, 10);
                    is_deeply([grep { $listens{$_} } keys %$open], [], 'nor has it the listener');
                    # mod_cgid's daemon has no web listener.
                    $daemons++ unless grep { $http{$_} } keys %$open;
                }
                cmp_ok($daemons, '>=', 1, "mod_cgid's daemon is among them") if $cgid;
            };
            my $found = has_bytes($session, $secret);
            skip "an ordinary user may not read httpd's memory", 1 unless defined $found;
            subtest "$mpm, $when: the bytes" => sub {
                is($found, 1, 'are in the memory of the session process');
                is(has_bytes($_, $secret) // 0, 0, "and not in that of child $_") for grep { is_alive($_) } @web;
            };
        }
    };

    $look->('at start');
    $h->graceful;
    $look->('after a graceful restart');     # these children were forked with the data there
    my $old = $h->kill_sessiond;
    $h->allow_log(qr/exit signal Killed|session process.*(?:kill|signal|ended|died|exit)/i);
    $h->wait_respawn($old);
    $h->restart;
    $look->('after a respawn and a hard restart');
    is_deeply([$c->fetch('secret')], ['ok', "$secret " x 20], "$mpm: the session is there");
    is($h->check, 'clean', "$mpm: the store is clean");
    $h->finish;
}
done_testing;
