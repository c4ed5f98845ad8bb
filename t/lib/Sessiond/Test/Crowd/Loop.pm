# SPDX-License-Identifier: Apache-2.0
#
# Sessiond::Test::Crowd::Loop: one process that keeps many members of a crowd
# going at once.
#
# A member is a list of steps over connections with names; when the list is
# done, its role gives the next (Sessiond::Test::Crowd::Roles):
#   [open => name]            a new connection, the current one from now on
#   [use => name]             an earlier one is the current one again
#   [send => bytes, n]        n answers are due from now on; 0: there is more to come
#   [answer => counter, check]   one whole frame; check(type, body)
#   [part => n]               that many bytes of an answer, and not one more is taken
#   [ending => counter, check]   all bytes up to an orderly end; check(bytes)
#   [shut => name], [pause => seconds]
# A check returns nothing, or (kind, sentence). The counter is the one of the
# server that must have gone up by one.
#
# A connection of which nothing is due is watched in every step, so that its
# end is noticed when it comes, and so is a byte that nobody asked for. One that
# is due and whose member pauses is not: there the server has to wait.
#
# How long a server let somebody wait is measured from the last byte sent, the
# last byte got, or the end of the pause, whichever came last, to the next byte.
package Sessiond::Test::Crowd::Loop;
use v5.36;

use Errno  qw(EAGAIN ECONNREFUSED ECONNRESET EINPROGRESS EINTR ENOENT EPIPE);
use Socket qw(AF_UNIX IPPROTO_TCP MSG_NOSIGNAL SOCK_NONBLOCK SOCK_STREAM SOL_SOCKET SO_ERROR SO_RCVBUF
    TCP_MAXSEG TCP_NODELAY unpack_sockaddr_in);
use Sessiond::Test::Net qw(now);

my $LOOK     = 0.05;      # seconds between two reports
my $EXAMPLES = 5;         # of each kind

# to: [family, packed address]; timeout: seconds without a byte
# members: [{ role, id, cycle => code(member) that returns steps, narrow }];
# narrow: [bytes of receive buffer, of a segment] of one whom the server must wait for
sub new ($class, %arg) {
    my $self = bless {
        %arg, by_fd => [], read => '', write => '', due => 0, ended => 0, stopping => 0, failing => 0.2,
        result => { found => {}, examples => {}, done => {}, waits => { asked => {}, narrow => {} },
            slowest => { asked => [0, 'nobody'], narrow => [0, 'nobody'] }, requests => 0, bytes_in => 0, bytes_out => 0 },
    }, $class;
    for my $m (@{ $self->{members} }) {
        %$m = (%$m, conns => {}, steps => [[pause => rand 0.5]], step => undef, blocked => '', at => 0, since => 0,
            gap => 0, fresh => 1, cycles => 0, keys => {});
    }
    return $self;
}

# Until is_over() was true and every member has finished what it was at.
# look(members) is called twenty times a second.
sub run ($self, $is_over, $look) {
    $self->{began} = now();
    $self->_advance($_) for @{ $self->{members} };
    my $next_look = 0;
    while ($self->{ended} < @{ $self->{members} }) {
        my $wait = $self->{due} - now();
        $wait = $wait < 0 ? 0 : $wait > $LOOK ? $LOOK : $wait;
        if (select(my $read = $self->{read}, my $write = $self->{write}, undef, $wait) > 0) {
            my ($bits, $fd) = (unpack('b*', $read |. $write), -1);
            $self->_ready($fd, vec($read, $fd, 1), vec($write, $fd, 1)) while ($fd = index $bits, '1', $fd + 1) >= 0;
        }
        my $now = now();
        $self->_ring($now) if $now >= $self->{due};
        next if $now < $next_look;
        $next_look = $now + $LOOK;
        $look->($self->{members});
        $self->_wind_up if !$self->{stopping} && $is_over->();
    }
    return $self->{result};
}

# Pauses end at once, and no member begins again.
sub _wind_up ($self) {
    $self->{stopping} = 1;
    for my $m (grep { $_->{step} && $_->{step}[0] eq 'pause' } @{ $self->{members} }) {
        $self->_wake($m);
    }
    return;
}

sub _ring ($self, $now) {
    for my $m (grep { $_->{step} && $_->{at} <= $now } @{ $self->{members} }) {
        if    (!$m->{blocked})                             { $self->_wake($m) }
        elsif ($m->{since} + $self->{timeout} <= $now) {
            $self->_fail($m, 'timeout', "nothing for $self->{timeout} s");
            $self->_advance($m);
        }
        else { $m->{at} = $m->{since} + $self->{timeout} }
    }
    my $due = $now + 60;
    for my $m (@{ $self->{members} }) { $due = $m->{at} if $m->{step} && $m->{at} < $due }
    $self->{due} = $due;
    return;
}

sub _wake ($self, $m) {
    @$m{qw(step since)} = (undef, now());
    return $self->_advance($m);
}

sub _ready ($self, $fd, $can_read, $can_write) {
    my $conn = $self->{by_fd}[$fd] or return;        # closed a moment ago, in this same round
    my $m    = $conn->{member};
    my $is_current = $m->{conn} && $m->{conn} == $conn;
    return $self->_advance($m) if $is_current && ($m->{blocked} eq 'read' && $can_read || $m->{blocked} eq 'write' && $can_write);
    return $self->_listen_in($m, $conn) if $can_read && !$conn->{due} && !$conn->{connecting};
    return;
}

# Something comes on a connection of which nothing is due.
sub _listen_in ($self, $m, $conn) {
    my $got = sysread $conn->{fh}, my $bytes, 4096;
    return if !defined $got && ($! == EAGAIN || $! == EINTR);
    if   ($got) { $self->_fail($m, 'surplus', "$got bytes that nobody asked for: " . show($bytes), $conn) }
    else        { $self->_fail_by_end($m, $got, $conn) }
    return $self->_advance($m);
}

# Goes on with a member until it has to wait.
sub _advance ($self, $m) {
    $self->_unblock($m) if $m->{blocked};
    while (1) {
        if (!$m->{step} && !@{ $m->{steps} }) {
            $m->{cycles}++ if !$m->{failed};
            $m->{failed} = 0;
            if ($self->{stopping}) {
                $self->_close_all($m);
                $self->{ended}++;
                return;
            }
            $m->{steps} = [$m->{cycle}->($m)];
        }
        my ($what, @arguments) = @{ $m->{step} //= shift @{ $m->{steps} } };
        my $step = $self->can("_step_$what") // die "no step $what\n";
        return if !$step->($self, $m, @arguments);
        $m->{step} = undef;
    }
}

sub _watch ($self, $conn, $read, $write) {
    vec($self->{read},  $conn->{fd}, 1) = $read  ? 1 : 0;
    vec($self->{write}, $conn->{fd}, 1) = $write ? 1 : 0;
    return;
}

sub _block ($self, $m, $for) {
    my $conn = $m->{conn};
    $m->{blocked} = $for;
    $m->{at} = $m->{since} + $self->{timeout};
    $self->_watch($conn, $for eq 'read' || !$conn->{due} && !$conn->{connecting}, $for eq 'write');
    return 0;
}

sub _unblock ($self, $m) {
    $m->{blocked} = '';
    $self->_watch($m->{conn}, !$m->{conn}{due}, 0) if $m->{conn};
    return;
}

sub _progress ($self, $m) {
    my $now = now();
    $m->{gap} = $now - $m->{since} if $now - $m->{since} > $m->{gap};
    $m->{since} = $now;
    return;
}

# --- steps: true when done, 0 when there is to wait -------------------------

sub _step_pause ($self, $m, $seconds) {
    return 1 if $self->{stopping};
    $m->{at} = now() + $seconds;
    $self->{due} = $m->{at} if $m->{at} < $self->{due};
    return 0;
}

sub _step_use ($self, $m, $name) {
    $m->{conn} = $m->{conns}{$name} // die "$name is not open\n";
    return 1;
}

sub _step_shut ($self, $m, $name) {
    $self->_close(delete $m->{conns}{$name});
    $m->{conn} = undef;
    return 1;
}

sub _step_open ($self, $m, $name) {
    my $conn = $m->{conns}{$name};
    if (!$conn) {
        my ($family, $to) = @{ $self->{to} };
        socket my $fh, $family, SOCK_STREAM | SOCK_NONBLOCK, 0 or die "socket: $!\n";
        if ($family != AF_UNIX) {
            setsockopt $fh, IPPROTO_TCP, TCP_NODELAY, 1;
            setsockopt $fh, IPPROTO_TCP, TCP_MAXSEG, $m->{narrow}[1] if $m->{narrow};
        }
        setsockopt $fh, SOL_SOCKET, SO_RCVBUF, $m->{narrow}[0] if $m->{narrow};
        $conn = { fh => $fh, fd => fileno $fh, member => $m, name => $name, in => '', due => 0, partial => 0, connecting => 1 };
        $m->{conn} = $m->{conns}{$name} = $self->{by_fd}[$conn->{fd}] = $conn;
        $m->{since} = now();
        if (!connect $fh, $to) {
            return $self->_block($m, 'write') if $! == EINPROGRESS;
            return $self->_fail_connect($m, $!);
        }
    }
    elsif (my $error = unpack 'i', getsockopt $conn->{fh}, SOL_SOCKET, SO_ERROR) {
        return $self->_fail_connect($m, $! = $error);
    }
    $conn->{connecting} = 0;
    $self->_progress($m);
    $self->_watch($conn, 1, 0);
    return 1;
}

sub _step_send ($self, $m, $bytes, $due) {
    my $conn = $m->{conn};
    if (!defined $conn->{unsent}) {
        $conn->{unsent} = length $bytes;
        $conn->{due}    += $due;
        $conn->{partial} = !$due;
        $m->{since} = now();
        $self->_watch($conn, !$conn->{due}, 0);
    }
    while ($conn->{unsent}) {
        my $sent = send $conn->{fh}, substr($bytes, -$conn->{unsent}), MSG_NOSIGNAL;
        if (defined $sent) {
            $conn->{unsent} -= $sent;
            $self->{result}{bytes_out} += $sent;
            $self->_progress($m);
        }
        elsif ($! == EAGAIN) { return $self->_block($m, 'write') }
        elsif ($! != EINTR)  { return $self->_fail_by_end($m, undef, $conn) }
    }
    $conn->{unsent} = undef;
    return 1;
}

# Reads once, up to a length of the buffer. True when something came; else the
# result of the step is in $$outcome.
sub _take ($self, $m, $most, $outcome) {
    my $conn = $m->{conn};
    my $room = $most - length $conn->{in};
    my $got  = sysread $conn->{fh}, $conn->{in}, $room > 262_144 ? 262_144 : $room, length $conn->{in};
    if ($got) {
        $self->_progress($m);
        $self->{result}{bytes_in} += $got;
        return 1;
    }
    if    (defined $got)                    { $$outcome = 'end' }
    elsif ($! == EAGAIN || $! == EINTR)     { $$outcome = $self->_block($m, 'read') }
    else                                    { $$outcome = $self->_fail_by_end($m, undef, $conn) }
    return 0;
}

sub _step_answer ($self, $m, $counter, $check) {
    my $conn = $m->{conn};
    my ($type, $length);
    while (1) {
        if (length $conn->{in} >= 5) {
            ($type, $length) = unpack 'a1 N', $conn->{in};
            return $self->_fail($m, 'wrong', 'no answer of the protocol: ' . show($conn->{in}))
                if index('KVNBE', $type) < 0 || $length > 1 << 26;
            last if length $conn->{in} >= 5 + $length;
        }
        next if $self->_take($m, length($conn->{in}) + 262_144, \my $outcome);
        return $outcome eq 'end' ? $self->_fail_by_end($m, 0, $conn) : $outcome;
    }
    my $body = substr $conn->{in}, 5, $length;
    substr $conn->{in}, 0, 5 + $length, '';
    $self->_watch($conn, 1, 0) if !--$conn->{due};
    if (my ($kind, $sentence) = $check->($type, $body)) { return $self->_fail($m, $kind, $sentence) }
    $self->_note($m, $counter);
    return $self->_fail($m, 'surplus', length($conn->{in}) . ' bytes behind the last answer: ' . show($conn->{in}))
        if !$conn->{due} && length $conn->{in};
    return 1;
}

sub _step_part ($self, $m, $n) {
    my $conn = $m->{conn};
    while (length $conn->{in} < $n) {
        next if $self->_take($m, $n, \my $outcome);
        return $outcome eq 'end' ? $self->_fail_by_end($m, 0, $conn) : $outcome;
    }
    return 1;
}

sub _step_ending ($self, $m, $counter, $check) {
    my $conn = $m->{conn};
    while (1) {
        next if $self->_take($m, length($conn->{in}) + 262_144, \my $outcome);
        return $outcome if $outcome ne 'end';
        last;
    }
    if (my ($kind, $sentence) = $check->($conn->{in})) { return $self->_fail($m, $kind, $sentence) }
    $self->_progress($m);
    $self->_note($m, $counter);
    return $self->_step_shut($m, $conn->{name});
}

# A request is over. Of several in one write the longest wait counts. Waits are
# counted in classes, sixteen to each power of two; those of narrow members
# apart, since a kernel that was told of no room waits for a timer at times.
sub _note ($self, $m, $counter) {
    my $result = $self->{result};
    $result->{requests}++;
    $result->{done}{$counter}++;
    return if $m->{conn}{due} && $m->{step}[0] eq 'answer';
    my ($gap, $of) = ($m->{gap}, $m->{narrow} ? 'narrow' : 'asked');
    $result->{waits}{$of}{ $gap > 1e-6 ? int(16 * log($gap * 1e6) / log 2) : 0 }++;
    if ($gap > $result->{slowest}{$of}[0]) {
        $result->{slowest}{$of} = [$gap,
            sprintf '%s %s, %s, %.1f s after the start', @$m{qw(role id)}, $counter, now() - $self->{began}];
    }
    $m->{gap} = 0;
    return;
}

# --- what went wrong ---------------------------------------------------------

# An end that was not ours: got is 0 after an orderly one, else $! tells.
sub _fail_by_end ($self, $m, $got, $conn) {
    my $kind = defined $got ? 'closed' : $! == ECONNRESET || $! == EPIPE ? 'reset' : 'error';
    my $text = defined $got ? 'an orderly end' : "$!";
    $kind .= '_idle' if $kind ne 'error' && !$conn->{due} && !$conn->{partial};
    $text .= ', ' . length($conn->{in}) . ' bytes of the answer had come' if length $conn->{in};
    return $self->_fail($m, $kind, $text, $conn);
}

sub _fail_connect ($self, $m, $error) {
    return $self->_fail($m, $error == ECONNREFUSED || $error == ENOENT ? 'refused' : 'error', "connect: $error");
}

# Counts, and lets the member begin anew a moment later. Returns true: what the
# failed step was to do is over.
sub _fail ($self, $m, $kind, $sentence, $conn = $m->{conn}) {
    my $result = $self->{result};
    $result->{found}{$kind}++;
    my $examples = $result->{examples}{$kind} //= [];
    push @$examples, sprintf '%s: %s %s, port %s (%s), %s, at %.2f s: %s', $kind, @$m{qw(role id)}, _port($conn),
        $conn ? $conn->{name} : 'none', _doing($m), now() - $self->{began}, $sentence if @$examples < $EXAMPLES;
    $self->_close_all($m);
    @$m{qw(fresh failed step gap blocked)} = (1, 1, undef, 0, '');
    $m->{steps} = $self->{stopping} ? [] : [[pause => 0.05 + rand $self->{failing}]];
    return 1;
}

sub _port ($conn) {
    my $name = $conn ? getsockname $conn->{fh} : undef;
    return eval { (unpack_sockaddr_in($name))[0] } // '?';
}

sub _doing ($m) {
    my $step = $m->{step} or return 'between two steps';
    return 'in a pause' . ($m->{conn} && $m->{conn}{partial} ? ' within a request' : '') if $step->[0] eq 'pause';
    return sprintf 'sending %d bytes', length $step->[1] if $step->[0] eq 'send';
    return join ' ', $step->[0], defined $step->[1] ? $step->[1] : ();
}

sub _close ($self, $conn) {
    return if !$conn;
    $self->_watch($conn, 0, 0);
    $self->{by_fd}[$conn->{fd}] = undef;
    close $conn->{fh};
    return;
}

sub _close_all ($self, $m) {
    $self->_close($_) for values %{ $m->{conns} };
    @$m{qw(conns conn)} = ({}, undef);
    return;
}

# The beginning of some bytes, for people.
sub show ($bytes) {
    return '"' . (substr($bytes, 0, 48) =~ s/([^ -~])/sprintf '\\x%02x', ord $1/ger) . (length $bytes > 48 ? '..."' : '"');
}

1;
