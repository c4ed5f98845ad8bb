# SPDX-License-Identifier: Apache-2.0
#
# Sessiond::Test::Client: a blocking client of both protocols that says exactly
# how a connection ended.
#
# The protocol's meaning lies in the ends: an orderly close without a byte is
# "no", a reset is "no answer". So every call returns an outcome first:
#   ok       the reply came whole (and, for S F D, an orderly end after it)
#   no       an orderly end without a byte
#   reset    the connection was reset, whatever came before
#   refused  nobody listens there
#   timeout  no end within the deadline
#   partial  an orderly end within a reply
#   garbage  a reply that is none
# Deadlines are socket options, so the usual request costs no extra call.
package Sessiond::Test::Client;
use v5.36;

use Errno  qw(EAGAIN ECONNREFUSED ECONNRESET EINTR ENOENT ENOTCONN EPIPE ETIMEDOUT EINPROGRESS);
use Socket qw(AF_INET AF_INET6 AF_UNIX IPPROTO_TCP MSG_NOSIGNAL SHUT_WR SOCK_STREAM SOL_SOCKET
    SO_LINGER SO_RCVBUF SO_RCVTIMEO SO_SNDTIMEO TCP_NODELAY inet_pton pack_sockaddr_in pack_sockaddr_in6
    pack_sockaddr_un);
use Sessiond::Test::Net qw(now);

use Exporter qw(import);
our @EXPORT_OK = qw(frame_store frame_fetch frame_delete frame_hello frame_get frame_write
    frame_lock frame_touch frame_unlock frame_remove parse_reply ANY_VERSION);

use constant ANY_VERSION => ~0;    # 64 bits of ones: whatever is there

# addr: "127.0.0.1:1042", "[::1]:1042", "unix:/path" or a port of this host
# timeout: seconds; from: the address to come from; receive: bytes of receive
# buffer, for one who takes little
sub new ($class, $addr, %opt) {
    my $self = bless { addr => $addr, timeout => $opt{timeout} // 30, receive => $opt{receive}, buffer => '' }, $class;
    if (my ($path) = $addr =~ m{^unix:(.*)}) {
        @$self{qw(family to)} = (AF_UNIX, pack_sockaddr_un($path));
    }
    elsif (my ($host6, $port6) = $addr =~ /^\[(.+)\]:(\d+)$/) {
        @$self{qw(family to)} = (AF_INET6, pack_sockaddr_in6($port6, inet_pton(AF_INET6, $host6)));
    }
    elsif (my ($host, $port) = $addr =~ /^(?:([\d.]+):)?(\d+)$/) {
        @$self{qw(family to)} = (AF_INET, pack_sockaddr_in($port, inet_pton(AF_INET, $host // '127.0.0.1')));
    }
    else { die "no address: $addr\n" }
    if (defined $opt{from}) {
        $self->{from} = $self->{family} == AF_INET6 ? pack_sockaddr_in6(0, inet_pton(AF_INET6, $opt{from}))
            : pack_sockaddr_in(0, inet_pton(AF_INET, $opt{from}));
    }
    $self->{timeval} = pack 'l!l!', int $self->{timeout}, int(1e6 * ($self->{timeout} - int $self->{timeout}));
    return $self;
}

sub _outcome () {
    my $error = $! + 0;
    return 'reset'   if $error == ECONNRESET || $error == EPIPE || $error == ENOTCONN;
    return 'refused' if $error == ECONNREFUSED || $error == ENOENT;
    return 'timeout' if $error == EAGAIN || $error == ETIMEDOUT || $error == EINPROGRESS;
    return "error: $!";
}

# --- raw access -----------------------------------------------------------

sub open ($self) {
    $self->close;
    CORE::socket(my $socket, $self->{family}, SOCK_STREAM, 0) or die "socket: $!\n";
    setsockopt $socket, SOL_SOCKET, SO_RCVTIMEO, $self->{timeval};
    setsockopt $socket, SOL_SOCKET, SO_SNDTIMEO, $self->{timeval};
    setsockopt $socket, IPPROTO_TCP, TCP_NODELAY, 1 if $self->{nodelay} && $self->{family} != AF_UNIX;
    setsockopt $socket, SOL_SOCKET, SO_RCVBUF, $self->{receive} if $self->{receive};    # before the window is told
    bind $socket, $self->{from} or die "bind: $!\n" if $self->{from};
    until (connect $socket, $self->{to}) {
        next if $! == EINTR;
        return _outcome();
    }
    $self->{socket} = $socket;
    return 'ok';
}

# Every small write leaves as a segment of its own.
sub no_delay ($self) { $self->{nodelay} = 1; return $self }

sub is_open ($self) { return defined $self->{socket} }
sub socket ($self)  { return $self->{socket} }

sub send ($self, $bytes) {
    my $socket = $self->{socket} // return 'reset';
    my $sent = send $socket, $bytes, MSG_NOSIGNAL;
    return 'ok' if defined $sent && $sent == length $bytes;
    my $offset = $sent // 0;
    my $until  = now() + $self->{timeout};
    while ($offset < length $bytes) {
        if (!defined $sent) {
            return _outcome() if $! != EINTR;
            return 'timeout'  if now() > $until;
        }
        $sent = send $socket, substr($bytes, $offset), MSG_NOSIGNAL;
        $offset += $sent // 0;
    }
    return 'ok';
}

sub half_close ($self) { return shutdown($self->{socket}, SHUT_WR) ? 'ok' : _outcome() }

sub close ($self) {
    my $socket = delete $self->{socket};
    CORE::close($socket) if $socket;
    $self->{buffer} = '';
    return;
}

# Goes with a reset.
sub abort ($self) {
    setsockopt $self->{socket}, SOL_SOCKET, SO_LINGER, pack('ii', 1, 0);
    return $self->close;
}

# Reads to the end. Returns (outcome, bytes): ok when bytes came and then an
# orderly end; with reset and timeout the bytes that came before.
sub read_all ($self) {
    my $bytes = $self->{buffer};
    $self->{buffer} = '';
    my $until = now() + $self->{timeout};
    while (1) {
        my $got = sysread $self->{socket}, $bytes, 262_144, length $bytes;
        return ($bytes eq '' ? 'no' : 'ok', $bytes) if defined $got && $got == 0;
        if (!defined $got) {
            return (_outcome(), $bytes) if $! != EINTR;
        }
        return ('timeout', $bytes) if now() > $until;
    }
}

# Reads exactly n bytes of a connection that stays. Returns (outcome, bytes).
sub read_exactly ($self, $n) {
    my $until = now() + $self->{timeout};
    while (length $self->{buffer} < $n) {
        my $got = sysread $self->{socket}, $self->{buffer}, 262_144, length $self->{buffer};
        return ($self->{buffer} eq '' ? 'no' : 'partial', $self->{buffer}) if defined $got && $got == 0;
        return (_outcome(), $self->{buffer}) if !defined $got && $! != EINTR;
        return ('timeout', $self->{buffer}) if now() > $until;
    }
    return ('ok', substr $self->{buffer}, 0, $n, '');
}

# --- sharedance: one request per connection --------------------------------

sub frame_store ($key, $data) { return pack('a1 N N', 'S', length $key, length $data) . $key . $data }
sub frame_fetch ($key)        { return pack('a1 N', 'F', length $key) . $key }
sub frame_delete ($key)       { return pack('a1 N', 'D', length $key) . $key }

# Sends bytes on a new connection and reads to its end.
sub exchange ($self, $bytes, %opt) {
    my $outcome = $self->open;
    return ($outcome, '') if $outcome ne 'ok';
    $outcome = $self->send($bytes);
    if ($outcome ne 'ok' && $outcome ne 'reset') {
        $self->close;
        return ($outcome, '');
    }
    # After a failed send there may still be bytes to read, but the error has
    # been told once: an end of file that follows is not an orderly one.
    $self->half_close if $opt{half_close} && $outcome eq 'ok';
    my ($end, $reply) = $self->read_all;
    $self->close;
    return ($outcome eq 'reset' ? 'reset' : $end, $reply);
}

sub _acknowledged ($self, $bytes) {
    my ($outcome, $reply) = $self->exchange($bytes);
    return $outcome if $outcome ne 'ok' || $reply eq "OK\n";
    return index("OK\n", $reply) == 0 ? 'partial' : 'garbage';
}

sub store ($self, $key, $data) { return $self->_acknowledged(frame_store($key, $data)) }
sub delete ($self, $key)       { return $self->_acknowledged(frame_delete($key)) }

# (outcome, data)
sub fetch ($self, $key) { return $self->exchange(frame_fetch($key)) }

# --- extended frames: a persistent connection ------------------------------

sub frame_hello ($nonce) { return pack 'a1 a8', 'P', $nonce }
sub frame_get ($key)     { return pack('a1 N', 'G', length $key) . $key }

sub frame_lock ($key, $wait_ms)   { return pack('a1 N N', 'L', length $key, $wait_ms) . $key }
sub frame_touch ($key, $ttl = 0)  { return pack('a1 N N', 'T', length $key, $ttl) . $key }
sub frame_unlock ($key)           { return pack('a1 N', 'U', length $key) . $key }
sub frame_remove ($key)           { return pack('a1 N', 'R', length $key) . $key }

sub frame_write ($key, $data, $ttl = 0, $version = ANY_VERSION) {
    return pack('a1 N N N Q>', 'W', length $key, length $data, $ttl, $version) . $key . $data;
}

# Takes the first reply frame off a string; nothing while it is incomplete.
# A reply is { type, body }, and as far as the type has them: version, data,
# text, nonce.
sub parse_reply ($buffer) {
    return if length $$buffer < 5;
    my ($type, $length) = unpack 'a1 N', $$buffer;
    return if length $$buffer < 5 + $length;
    my $body = substr $$buffer, 5, $length;
    substr $$buffer, 0, 5 + $length, '';
    return _dissect($type, $body);
}

sub _dissect ($type, $body) {
    my %reply = (type => $type, body => $body);
    if ($type eq 'V') {
        die "a V frame of " . length($body) . " bytes\n" if length $body < 8;
        @reply{qw(version data)} = unpack 'Q> a*', $body;
    }
    elsif ($type eq 'K' && length $body == 8) { $reply{version} = unpack 'Q>', $body }
    elsif ($type eq 'K' && length $body > 8)  { @reply{qw(nonce text)} = unpack 'a8 a*', $body }
    elsif ($type eq 'E')                      { $reply{text} = $body }
    return \%reply;
}

# Reads one reply. Returns (outcome, reply).
sub read_reply ($self) {
    my ($outcome, $head) = $self->read_exactly(5);
    return ($outcome, undef) if $outcome ne 'ok';
    my ($type, $length) = unpack 'a1 N', $head;
    return ('garbage', undef) if index('KVNBE', $type) < 0 || $length > 1 << 30;
    ($outcome, my $body) = $self->read_exactly($length);
    return ($outcome eq 'no' ? 'partial' : $outcome, undef) if $outcome ne 'ok';
    return ('ok', _dissect($type, $body));
}

# Sends frames on the open connection, opening it if need be, and reads as many
# replies. Returns (outcome, replies...); the connection stays open while the
# outcome is ok.
sub call ($self, @frames) {
    if (!$self->{socket}) {
        my $outcome = $self->open;
        return ($outcome) if $outcome ne 'ok';
    }
    my $outcome = $self->send(join '', @frames);
    my @replies;
    if ($outcome eq 'ok') {
        for (@frames) {
            ($outcome, my $reply) = $self->read_reply;
            last if $outcome ne 'ok';
            push @replies, $reply;
        }
    }
    $self->close if $outcome ne 'ok';
    return ($outcome, @replies);
}

sub hello ($self, $nonce = 'nonce-01')    { return $self->call(frame_hello($nonce)) }
sub get ($self, $key)                     { return $self->call(frame_get($key)) }
sub lock ($self, $key, $wait_ms = 0)      { return $self->call(frame_lock($key, $wait_ms)) }
sub touch ($self, @arguments)             { return $self->call(frame_touch(@arguments)) }
sub unlock ($self, $key)                  { return $self->call(frame_unlock($key)) }
sub remove ($self, $key)                  { return $self->call(frame_remove($key)) }
sub write ($self, @arguments)             { return $self->call(frame_write(@arguments)) }

1;
