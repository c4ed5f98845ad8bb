# SPDX-License-Identifier: Apache-2.0
#
# Sessiond::Test::Stranger: a client whose address isn't this host's.
#
# What is hard: this host is always allowed, by each of its own addresses. So
# the test starts itself again in an empty network namespace, joins a second one
# by a cable, and lets a process there call. Nothing of the machine's network is
# touched, and all ends with the two processes. An ordinary user may not do that
# and tests what there is. A test must ask for it before it starts anything.
#
# Near is 10.99.0.1 and fd99::1, far are 10.99.0.2 to .4, fd99::2 and fd99::3.
package Sessiond::Test::Stranger;
use v5.36;

use POSIX ();
use Sessiond::Test::Net qw(has_ipv6);

# What the far process runs: a line "KIND TO FROM HEX" is a call, its outcome
# and the bytes that came the answer. The sub that it calls is below.
my $FAR = <<'END';
    $| = 1;
    print readlink('/proc/self/ns/net'), "\n";
    while (my $line = <STDIN>) {
        my ($kind, $to, $from, $hex) = split ' ', $line;
        my ($outcome, $reply) = Sessiond::Test::Stranger::call($kind, $to, $from, pack 'H*', $hex // '');
        print "$outcome ", unpack('H*', $reply), "\n";
    }
END

# Undef when there can be none here.
sub new ($class) {
    my $inside = ($ENV{SESSIOND_TEST_NETNS} // '') eq 'inside';
    if (!$inside && $> == 0 && system('unshare -n ip link set lo up >/dev/null 2>&1') == 0) {
        $ENV{SESSIOND_TEST_NETNS} = 'inside';
        exec 'unshare', '-n', $^X, $0, @ARGV;
    }
    return $inside ? $class->_connect : undef;
}

sub _connect ($class) {
    my $self = bless { owner => $$ }, $class;
    pipe my $child_in, $self->{in} or die $!;
    pipe $self->{out}, my $child_out or die $!;
    my $near = readlink '/proc/self/ns/net';
    $self->{pid} = fork // die "fork: $!";
    if ($self->{pid} == 0) {
        close $_ for @$self{qw(in out)};
        open STDIN,  '<&', $child_in;
        open STDOUT, '>&', $child_out;
        exec 'unshare', '-n', $^X, (map { "-I$_" } @INC), '-MSessiond::Test::Stranger', '-e', $FAR or POSIX::_exit(1);
    }
    close $_ for $child_in, $child_out;
    $self->{in}->autoflush(1);
    chomp(my $far = readline($self->{out}) // '');
    my $ip = sub { return system("ip @_ >/dev/null 2>&1") == 0 };
    my $there = sub (@commands) {
        return system("nsenter -t $self->{pid} -n sh -c '@{[join ' && ', @commands]}' >/dev/null 2>&1") == 0;
    };
    return undef unless $far ne '' && $far ne $near
        && $ip->('link set lo up')
        && $ip->('link add sdnear type veth peer name sdfar')
        && $ip->("link set sdfar netns $self->{pid}")
        && $ip->('addr add 10.99.0.1/24 dev sdnear') && $ip->('link set sdnear up')
        && $there->('ip link set lo up', 'ip link set sdfar up', map { "ip addr add 10.99.0.$_/24 dev sdfar" } 2 .. 4);
    $self->{six} = has_ipv6() && $ip->('addr add fd99::1/64 dev sdnear nodad')
        && $there->(map { "ip addr add fd99::$_/64 dev sdfar nodad" } 2, 3);
    return $self;
}

sub has_six ($self) { return $self->{six} }

sub _ask ($self, $kind, $to, $from, $bytes) {
    print { $self->{in} } "$kind $to $from ", unpack('H*', $bytes), "\n";
    my ($outcome, $hex) = split / /, readline($self->{out}) // 'dead ';
    chomp $hex;
    return ($outcome, pack 'H*', $hex);
}

# Like Sessiond::Test::Client's exchange: (outcome, bytes that came).
sub exchange ($self, $to, $from, $bytes) { return $self->_ask('tcp', $to, $from, $bytes) }
# (outcome, bytes that came): answer, refused (the port is closed) or silence.
sub datagram ($self, $to, $from, $bytes) { return $self->_ask('udp', $to, $from, $bytes) }

sub call ($kind, $to, $from, $bytes) {
    return udp($to, $from, $bytes) if $kind eq 'udp';
    require Sessiond::Test::Client;
    return Sessiond::Test::Client->new($to, from => $from, timeout => 20)->exchange($bytes);
}

# One datagram from here; the kernel tells of a closed port on the same socket.
sub udp ($to, $from, $bytes) {
    require IO::Socket::IP;
    my ($host, $port) = $to =~ /^\[?(.*?)\]?:(\d+)$/;
    my $socket = IO::Socket::IP->new(Proto => 'udp', PeerHost => $host, PeerPort => $port, LocalHost => $from)
        or return ("error:$!" =~ s/ /_/gr, '');
    $socket->send($bytes);
    vec(my $bits = '', fileno $socket, 1) = 1;
    return ('silence', '') unless select($bits, undef, undef, 2) > 0;
    my $answered = $socket->recv(my $reply, 65536);
    return defined $answered ? ('answer', $reply) : ('refused', '');
}

sub DESTROY ($self) {
    return if $self->{owner} != $$ || !$self->{pid};
    local ($?, $!);
    close $self->{in};
    waitpid $self->{pid}, 0;
    return;
}

1;
