# SPDX-License-Identifier: Apache-2.0
#
# Sessiond::Test::BadClients: clients that idle, dribble, stop half-way, ask and
# do not read, come and go in storms, or want more than their share. A hundred
# kinds of misery are held by a few processes, each with one select() over
# hundreds of non-blocking sockets.
#
# What is hard is to stay bad: a client that the server has thrown out comes
# back at once, so the pressure lasts as long as the group does. A client that
# does not read cannot see its end by reading either; it asks the socket for
# its error. And loopback is kinder than any network: the kernel takes a
# megabyte at once off a server's hands, unless the client announces small
# segments and a small buffer before it connects.
package Sessiond::Test::BadClients;
use v5.36;

use Errno       qw(EAGAIN EINPROGRESS ECONNREFUSED ENOENT ENOTCONN);
use File::Path  qw(remove_tree);
use File::Temp  qw(tempdir);
use List::Util  qw(min);
use POSIX       ();
use Socket      qw(AF_INET AF_UNIX SOCK_STREAM SOL_SOCKET SO_ERROR SO_LINGER SO_RCVBUF IPPROTO_TCP TCP_MAXSEG
    MSG_DONTWAIT MSG_PEEK pack_sockaddr_in pack_sockaddr_un inet_aton);
use Sessiond::Test::Net    qw(now nap);
use Sessiond::Test::Client qw(frame_store frame_fetch frame_hello frame_get frame_write);

my $EACH    = 700;              # sockets of one process: select() and the usual ulimit end at 1024
my $AT_ONCE = 40;               # connects in one turn, or this would be a storm of its own
my $MB      = 1 << 20;
my $AHEAD   = 8 * $MB;          # bytes of answers that a greedy client has asked for

# Each kind: what it does when it is connected (open), when its time comes
# (tick, each `every` seconds; by default it only looks whether it is still
# wanted), when it may write, when it may read. `small`: see above; `spread`:
# the seconds within which they come at first, if not as fast as can be; `rest`:
# seconds before one comes back.
my %KIND = (
    # -- those that wait
    silent  => {},
    begun   => { open => sub ($self, $c) { $self->_put($c, 'S') } },
    pooled  => { open => sub ($self, $c) { $self->_put($c, frame_hello('poolpool')) } },

    # -- those that are slow: a byte a second, half of them from the first byte on
    dribble => {
        open => sub ($self, $c) {
            my $size = 100 + int rand $MB;
            $c->{slow} = substr frame_store($self->_key('slow'), 'd' x min($size, 4096)), 0, 4096;
            substr $c->{slow}, 5, 4, pack 'N', $size;
            $self->_put($c, substr $c->{slow}, 0, 60, '') if rand() < 0.5;
        },
        tick => sub ($self, $c) { $self->_put($c, substr $c->{slow}, 0, 1, '') if $self->_look($c) && $c->{slow} ne '' },
    },

    # -- those that are no slower than they must be: 80 KB a second of 30 MB
    pacer => {
        every => 0.25,
        open  => sub ($self, $c) { $self->_put($c, pack('a1 N N', 'S', 4, 30 * $MB) . sprintf '%04d', rand 10_000) },
        tick  => sub ($self, $c) { $self->_put($c, 'p' x 20_480) if $self->_look($c) && length $c->{out} < 200_000 },
    },

    # -- those that stop: half of a store that says it is 30 MB
    halfway => {
        open  => sub ($self, $c) {
            $self->_put($c, pack('a1 N N', 'S', 4, 30 * $MB) . sprintf '%04d', rand 10_000);
            $c->{left} = (5 + int rand 10) * $MB;
        },
        write => sub ($self, $c) { $self->_pour($c, 'left') },
    },
    # -- one that sends all of it, for comparison: 10 MB under one of two keys, as
    #    fast as they are taken, and then has a rest
    whole => {
        rest  => 0.3,
        open  => sub ($self, $c) {
            $self->_put($c, pack('a1 N N', 'S', 6, 10 * $MB) . 'whole' . ++$self->{n_whole} % 2);
            $c->{left} = 10 * $MB;
            $c->{began} = now();
        },
        write => sub ($self, $c) { $self->_pour($c, 'left') },
        read  => sub ($self, $c) {
            my $got = $self->_take($c) // return;
            return if $c->{left} > 0 || $got !~ /^OK/;
            $self->{seen}{whole_done}++;
            $self->{seen}{whole_longest} = now() - $c->{began} if now() - $c->{began} > ($self->{seen}{whole_longest} // 0);
            $self->_drop($c);
        },
    },

    # -- those that ask and do not read
    deaf => {
        small => 1, spread => 2.5,
        open  => sub ($self, $c) {
            my $key = $self->{keys}[rand @{ $self->{keys} }];
            $self->_put($c, rand() < 0.5 ? frame_fetch($key) : frame_get($key));
        },
    },
    deaf_pipeline => {
        small => 1,
        open  => sub ($self, $c) { $self->_put($c, frame_get($self->{keys}[0]) x 1000) },
        write => sub ($self, $c) { $self->_put($c, frame_get($self->{keys}[0]) x 100) },
    },
    deaf_writer => {
        small => 1,
        write => sub ($self, $c) { $self->_put($c, frame_write('deaf-writer' . $c->{id}, 'v' x 2000) x 8) },
    },

    # -- those that come and go
    closer => { tick => sub ($self, $c) { $self->_drop($c) }, every => 0.01 },
    resetter => {
        open  => sub ($self, $c) {
            my $whole = rand() < 0.5 ? frame_store('storm' . $c->{id}, 's' x 3000) : frame_fetch($self->{keys}[0] // 'none');
            $self->_put($c, substr $whole, 0, 1 + int rand length $whole);
        },
        tick  => sub ($self, $c) {
            setsockopt $c->{socket}, SOL_SOCKET, SO_LINGER, pack 'ii', 1, 0;
            $self->_drop($c);
        },
        every => 0.01,
    },

    # -- those that want all there is
    greedy_get => {
        open  => sub ($self, $c) { $c->{ahead} = 0; $self->_ask_more($c) },
        read  => sub ($self, $c) {
            my $got = $self->_take($c) // return;
            $c->{ahead} -= length $got;
            $self->_ask_more($c);
        },
    },
    greedy_put => {
        write => sub ($self, $c) { $self->_pour_frames($c) },
        read  => sub ($self, $c) { $self->_take($c) },
    },
    # writes large live sessions again, so that what deaf ones hold is detached
    rewriter => {
        open  => sub ($self, $c) { $self->{rewrites} //= 0 },
        tick  => sub ($self, $c) {
            return if !$self->_look($c) || length $c->{out};
            my $key = $self->{keys}[$self->{rewrites}++ % @{ $self->{keys} }];
            $self->_put($c, frame_write($key, chr(97 + rand 26) x $self->{size}));
        },
        every => 0.1,
    },
);

# addr:   as for Sessiond::Test::Client, without IPv6
# kinds:  { kind => how many }
# keys:   sessions that those ask for who ask; each of `size` bytes (1 MB)
sub new ($class, %arg) {
    for my $kind (keys %{ $arg{kinds} }) { die "no kind $kind\n" unless $KIND{$kind} }
    my ($host, $port) = $arg{addr} =~ /^(?:([\d.]+):)?(\d+)$/;
    my ($path) = $arg{addr} =~ /^unix:(.*)/;
    die "no address: $arg{addr}\n" unless $port || defined $path;
    return bless {
        keys => [], size => $MB, %arg, owner => $$, pids => {},
        family => $port ? AF_INET : AF_UNIX,
        to  => $port ? pack_sockaddr_in($port, inet_aton($host // '127.0.0.1')) : pack_sockaddr_un($path),
        dir => tempdir('sessiond-bad-XXXXXX', TMPDIR => 1),
    }, $class;
}

sub kinds ($class) { return sort keys %KIND }

sub start ($self) {
    my @all = map { ($_) x $self->{kinds}{$_} } sort keys %{ $self->{kinds} };
    my $n = 0;
    while (my @some = splice @all, 0, $EACH) {
        my $name = ++$n;
        my $pid = fork // die "fork: $!\n";
        if ($pid) {
            $self->{pids}{$pid} = $name;
            next;
        }
        my $ok = eval { $self->_run($name, @some); 1 };
        warn "BadClients: $@" unless $ok;
        POSIX::_exit($ok ? 0 : 1);
    }
    $self->{processes} = $n;
    return $self;
}

# Sums over the processes, some tenths of a second old: held_KIND (connected
# now), opened_KIND, reset_KIND and closed_KIND (by the server), refused,
# bytes_out, bytes_in; whole_done, whole_longest (s); least_KIND and most_KIND,
# the bytes that one client of a kind moved on its present connection.
sub seen ($self) {
    my %sum;
    for my $file (glob "$self->{dir}/*.seen") {
        CORE::open my $fh, '<', $file or next;
        while (my $line = readline $fh) {
            my ($name, $value) = $line =~ /^(\S+) (\S+)/ or next;
            if    ($name =~ /most|longest/) { $sum{$name} = $value if $value > ($sum{$name} // 0) }
            elsif ($name =~ /least/)        { $sum{$name} = $value if $value < ($sum{$name} // 9e15) }
            else                            { $sum{$name} += $value }
        }
    }
    return \%sum;
}

sub held ($self) {
    my $seen = $self->seen;
    my $sum = 0;
    $sum += $seen->{$_} for grep { /^held_/ } keys %$seen;
    return $sum;
}

# All leave, in no orderly way. Returns what was seen.
sub stop ($self) {
    kill TERM => keys %{ $self->{pids} };
    my $until = now() + 60;
    for my $pid (keys %{ $self->{pids} }) {
        nap(0.01) while waitpid($pid, POSIX::WNOHANG()) == 0 && now() < $until;
        kill KILL => $pid if kill 0 => $pid;
        waitpid $pid, 0;
    }
    $self->{pids} = {};
    return $self->seen;
}

sub describe ($self) {
    my $seen = $self->seen;
    return join ', ', map { "$_ " . (/longest/ ? sprintf '%.2f', $seen->{$_} : $seen->{$_}) }
        grep { !/^(?:held|least|most)_/ && $seen->{$_} } sort keys %$seen;
}

# --- one process ------------------------------------------------------------

sub _run ($self, $name, @kinds) {
    my $over = 0;
    $SIG{TERM} = sub { $over = 1 };
    $SIG{INT}  = $SIG{PIPE} = 'IGNORE';
    srand $$;
    my $parent = $self->{owner};
    @$self{qw(seen read write)} = ({}, '', '');
    my @clients = map { { id => "$name-$_", kind => $kinds[$_], due => now() + rand($KIND{ $kinds[$_] }{spread} // 0) } } 0 .. $#kinds;
    my $told = 0;
    my $every = (grep { ($KIND{$_}{every} // 1) < 0.1 } @kinds) ? 0.01 : 0.05;
    until ($over || getppid != $parent) {
        my $now = now();
        my $opened = 0;
        for my $c (@clients) {
            next if $c->{due} > $now;
            if    ($c->{socket})            { $self->_tick($c) }
            elsif ($opened++ < $AT_ONCE)    { $self->_open($c) }
        }
        if ($now > $told + 0.2) {
            $self->_tell($name, \@clients);
            $told = $now;
        }
        my ($r, $w) = ($self->{read}, $self->{write});
        next unless select($r, $w, undef, $every) > 0;
        for my $c (grep { $_->{socket} } @clients) {
            my $fd = $c->{fd};
            if ($c->{socket} && vec $w, $fd, 1) { $self->_writable($c) }
            if ($c->{socket} && vec $r, $fd, 1) { ($KIND{ $c->{kind} }{read} // \&_look)->($self, $c) }
        }
    }
    $self->_tell($name, \@clients);
    return;
}

sub _tell ($self, $name, $clients) {
    my $seen = $self->{seen};
    delete $seen->{$_} for grep { /^(?:held|least|most)_/ } keys %$seen;
    for my $c (grep { $_->{socket} } @$clients) {
        my ($kind, $moved) = @$c{qw(kind moved)};
        $seen->{"held_$kind"}++;
        $seen->{"most_$kind"}  = $moved if $moved > ($seen->{"most_$kind"} // -1);
        $seen->{"least_$kind"} = $moved if $moved < ($seen->{"least_$kind"} // 9e15);
    }
    CORE::open my $fh, '>', "$self->{dir}/$name.new" or return;
    print {$fh} "$_ $seen->{$_}\n" for keys %$seen;
    close $fh and rename "$self->{dir}/$name.new", "$self->{dir}/$name.seen";
    return;
}

sub _key ($self, $prefix) { return $prefix . int rand 1e9 }

sub _open ($self, $c) {
    my $kind = $KIND{ $c->{kind} };
    %$c = (id => $c->{id}, kind => $c->{kind}, out => '', at => 0, moved => 0);
    socket my $socket, $self->{family}, SOCK_STREAM, 0 or die "socket: $!\n";
    $socket->blocking(0);
    if ($kind->{small}) {
        setsockopt $socket, SOL_SOCKET, SO_RCVBUF, 4096;
        setsockopt $socket, IPPROTO_TCP, TCP_MAXSEG, 536 if $self->{family} == AF_INET;
    }
    if (!connect $socket, $self->{to} and $! != EINPROGRESS) {
        $self->{seen}{refused}++ if $! == ECONNREFUSED || $! == ENOENT;
        $c->{due} = now() + 0.1;            # EAGAIN: the queue of a Unix socket is full
        return;
    }
    @$c{qw(socket fd due)} = ($socket, fileno $socket, now() + rand($kind->{every} // 1));
    $self->{seen}{"opened_$c->{kind}"}++;
    vec($self->{read}, $c->{fd}, 1)  = 1 unless $kind->{small};
    vec($self->{write}, $c->{fd}, 1) = 1 if $kind->{write};
    $kind->{open}->($self, $c) if $kind->{open};
    return;
}

sub _drop ($self, $c, $how = undef) {
    $self->{seen}{"${how}_$c->{kind}"}++ if $how;
    vec($self->{read}, $c->{fd}, 1) = vec($self->{write}, $c->{fd}, 1) = 0;
    close delete $c->{socket};
    $c->{due} = now() + ($KIND{ $c->{kind} }{rest} // 0);
    return;
}

sub _tick ($self, $c) {
    my $kind = $KIND{ $c->{kind} };
    $c->{due} = now() + ($kind->{every} // 1);
    ($kind->{tick} // \&_look)->($self, $c);
    return;
}

# False when the server has ended the connection; answers are read away, but
# not by those who do not read.
sub _look ($self, $c) {
    my $error = unpack 'i', getsockopt $c->{socket}, SOL_SOCKET, SO_ERROR;
    if ($error) {
        $self->{seen}{refused}++ if $error == ECONNREFUSED;
        $self->_drop($c, 'reset');
        return 0;
    }
    if ($KIND{ $c->{kind} }{small}) {
        # A peek tells an end that no byte came before.
        my $n = recv $c->{socket}, my $byte, 1, MSG_PEEK | MSG_DONTWAIT;
        return 1 if defined $n && length $byte || !defined $n && ($! == EAGAIN || $! == ENOTCONN);
        $self->_drop($c, defined $n ? 'closed' : 'reset');
        return 0;
    }
    return defined $self->_take($c);
}

# What there is to read; '' for nothing, undef at the end.
sub _take ($self, $c) {
    my $got = sysread $c->{socket}, my $bytes, 262_144;
    if ($got) {
        $self->{seen}{bytes_in} += $got;
        $c->{moved} += $got;
        return $bytes;
    }
    return '' if !defined $got && ($! == EAGAIN || $! == ENOTCONN);
    $self->_drop($c, defined $got ? 'closed' : 'reset');
    return undef;
}

sub _put ($self, $c, $bytes) {
    $c->{out} .= $bytes;
    return $self->_flush($c);
}

# True: all is gone.
sub _flush ($self, $c) {
    if (length $c->{out}) {
        my $sent = syswrite $c->{socket}, $c->{out};
        if (!defined $sent && $! != EAGAIN && $! != ENOTCONN) {
            $self->_drop($c, 'reset');
            return 0;
        }
        $self->{seen}{bytes_out} += $sent // 0;
        substr $c->{out}, 0, $sent // 0, '';
    }
    vec($self->{write}, $c->{fd}, 1) = length $c->{out} || $KIND{ $c->{kind} }{write} ? 1 : 0;
    return length $c->{out} == 0;
}

sub _writable ($self, $c) {
    return unless $self->_flush($c);
    my $write = $KIND{ $c->{kind} }{write};
    $write->($self, $c) if $write;
    return;
}

# Sends of what is left until the socket is full; then no more is wanted.
sub _pour ($self, $c, $left) {
    state $bytes = 'p' x $MB;
    my $sent = syswrite $c->{socket}, $bytes, min($MB, $c->{$left});
    return $! == EAGAIN || $! == ENOTCONN ? undef : $self->_drop($c, 'reset') unless defined $sent;
    $self->{seen}{bytes_out} += $sent;
    $c->{$left} -= $sent;
    vec($self->{write}, $c->{fd}, 1) = 0 if $c->{$left} == 0;
    return;
}

# One frame after the other, each of `size` bytes, without a copy of them.
sub _pour_frames ($self, $c) {
    state %frame;
    my $frame = $frame{ $c->{id} } //= frame_write('greedy' . $c->{id}, 'g' x $self->{size});
    my $sent = syswrite $c->{socket}, $frame, length($frame) - $c->{at}, $c->{at};
    return $! == EAGAIN || $! == ENOTCONN ? undef : $self->_drop($c, 'reset') unless defined $sent;
    $self->{seen}{bytes_out} += $sent;
    $c->{moved} += $sent;
    $c->{at} += $sent;
    $c->{at} = 0 if $c->{at} == length $frame;
    return;
}

sub _ask_more ($self, $c) {
    while ($c->{socket} && $c->{ahead} < $AHEAD) {
        $self->_put($c, join '', map { frame_get($self->{keys}[rand @{ $self->{keys} }]) } 1 .. 4);
        $c->{ahead} += 4 * (13 + $self->{size});
    }
    return;
}

sub DESTROY ($self) {
    return if $self->{owner} != $$;
    local ($?, $!);
    kill KILL => keys %{ $self->{pids} };
    waitpid $_, 0 for keys %{ $self->{pids} };
    remove_tree($self->{dir}, { error => \my $ignored });
    return;
}

1;
