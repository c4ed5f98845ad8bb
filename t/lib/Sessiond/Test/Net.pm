# SPDX-License-Identifier: Apache-2.0
#
# Sessiond::Test::Net: what the tests need from the machine below a protocol:
# a clock that never jumps, ports that are free and stay free, a small HTTP
# GET, and what /proc knows about processes and their sockets.
#
# Ports are the hard part. A port that the kernel hands out for "bind 0" lies
# in the range of outgoing connections, and a load of one-shot clients walks
# through that whole range: such a port may be taken again before httpd binds
# it. So ports are drawn from below that range, and each is claimed by an
# abstract Unix socket, which other test files see and which dies with us.
package Sessiond::Test::Net;
use v5.36;

use Exporter qw(import);
use IO::Socket::INET ();
use IO::Socket::IP   ();
use IO::Socket::UNIX ();
use Socket           qw(IPPROTO_TCP TCP_NODELAY SOCK_STREAM);
use Time::HiRes      qw(clock_gettime CLOCK_MONOTONIC sleep);

our @EXPORT_OK = qw(now nap claim_port http_request processes process_group
    is_alive socket_inodes listeners has_ipv6);

my %claimed;    # port => the socket that claims it

sub now () { return clock_gettime(CLOCK_MONOTONIC) }

# Sleeps; a signal may shorten it, which suits loops that look at a condition.
sub nap ($seconds) { sleep($seconds) if $seconds > 0; return }

sub _first_ephemeral () {
    open my $fh, '<', '/proc/sys/net/ipv4/ip_local_port_range' or return 32768;
    my ($low) = (readline($fh) // '') =~ /^(\d+)/;
    return $low // 32768;
}

sub _is_free ($port) {
    for my $address ('0.0.0.0', '127.0.0.1') {
        IO::Socket::INET->new(LocalAddr => $address, LocalPort => $port, Listen => 1, ReuseAddr => 1)
            or return 0;
    }
    return 1 unless has_ipv6();
    return defined IO::Socket::IP->new(LocalHost => '::1', LocalPort => $port, Listen => 1, ReuseAddr => 1);
}

# Takes a port for this test file. Nobody else draws it until this process and
# all it forked are gone.
sub claim_port () {
    my $top = _first_ephemeral();
    for my $try (1 .. 2000) {
        my $port;
        if ($top > 12_000 && $try <= 1000) {
            $port = 10_000 + int rand($top - 10_000);
        }
        else {
            my $probe = IO::Socket::INET->new(LocalAddr => '127.0.0.1', LocalPort => 0, Listen => 1) or next;
            $port = $probe->sockport;
        }
        next if $claimed{$port};
        my $claim = IO::Socket::UNIX->new(Local => "\0sessiond-test-port-$port", Listen => 1) or next;
        next unless _is_free($port);
        $claimed{$port} = $claim;
        return $port;
    }
    die "found no free port\n";
}

sub has_ipv6 () {
    state $has = defined IO::Socket::IP->new(LocalHost => '::1', LocalPort => 0, Listen => 1);
    return $has;
}

# One HTTP request on a connection of its own. Returns (status, body, headers);
# status 0 and a reason in the body when there was no complete answer.
sub http_request ($port, $path, %opt) {
    my $deadline = now() + ($opt{timeout} // 20);
    my $socket   = IO::Socket::INET->new(PeerAddr => $opt{host} // '127.0.0.1', PeerPort => $port,
        Timeout => $opt{timeout} // 20) or return (0, "connect: $!", '');
    setsockopt $socket, IPPROTO_TCP, TCP_NODELAY, 1;
    my $extra = join '', map { "$_: $opt{headers}{$_}\r\n" } sort keys %{ $opt{headers} // {} };
    local $SIG{PIPE} = 'IGNORE';
    syswrite $socket, "GET $path HTTP/1.0\r\nHost: 127.0.0.1\r\n$extra\r\n";
    my ($answer, $bits) = ('', '');
    vec($bits, fileno $socket, 1) = 1;
    while (1) {
        my $left = $deadline - now();
        return (0, 'timeout', '') if $left <= 0;
        next unless select(my $ready = $bits, undef, undef, $left) > 0;
        my $got = sysread $socket, $answer, 65536, length $answer;
        return (0, "read: $!", '') unless defined $got;
        last if $got == 0;
    }
    my ($head, $body) = split /\r\n\r\n/, $answer, 2;
    my ($status) = ($head // '') =~ m{^HTTP/\S+ (\d+)} or return (0, 'no status line', '');
    if ($head =~ /^Content-Length:\s*(\d+)/mi && length($body // '') < $1) {
        return (0, 'body cut short', $head);
    }
    return ($status, $body // '', $head);
}

# All processes as pid => { ppid, pgrp, state, name }.
sub processes () {
    my %all;
    opendir my $proc, '/proc' or die "/proc: $!\n";
    for my $pid (grep { /^\d+$/ } readdir $proc) {
        open my $fh, '<', "/proc/$pid/stat" or next;
        my ($name, $state, $ppid, $pgrp) = (readline($fh) // '') =~ /\((.*)\) (\S) (\d+) (\d+)/ or next;
        $all{$pid} = { ppid => $ppid, pgrp => $pgrp, state => $state, name => $name };
    }
    return %all;
}

# A zombie that nobody reaps is as dead as can be.
sub is_alive ($pid) {
    open my $fh, '<', "/proc/$pid/stat" or return 0;
    my ($state) = (readline($fh) // '') =~ /\) (\S) /;
    return defined $state && $state ne 'Z' && $state ne 'X';
}

# The living members of a process group.
sub process_group ($pgrp) {
    my %all = processes();
    return grep { $all{$_}{pgrp} == $pgrp && $all{$_}{state} !~ /[ZX]/ } sort { $a <=> $b } keys %all;
}

# Inodes of the sockets a process has open.
sub socket_inodes ($pid) {
    my %inodes;
    for my $fd (glob "/proc/$pid/fd/*") {
        my $target = readlink($fd) // next;
        $inodes{$1} = 1 if $target =~ /^socket:\[(\d+)\]$/;
    }
    return \%inodes;
}

# Inodes of the sockets that listen on a TCP port or a Unix path.
sub listeners ($where) {
    my @inodes;
    if ($where =~ m{^/}) {
        open my $fh, '<', '/proc/net/unix' or return;
        while (my $line = readline $fh) {
            my @field = split ' ', $line;
            next unless ($field[7] // '') eq $where;
            push @inodes, $field[6] if hex($field[3]) & 0x10000;    # __SO_ACCEPTCON
        }
        return @inodes;
    }
    for my $table ('/proc/net/tcp', '/proc/net/tcp6') {
        open my $fh, '<', $table or next;
        while (my $line = readline $fh) {
            my @field = split ' ', $line;
            next unless ($field[3] // '') eq '0A';                   # LISTEN
            push @inodes, $field[9] if $field[1] =~ /:([0-9A-F]+)$/ && hex($1) == $where;
        }
    }
    return @inodes;
}

1;
