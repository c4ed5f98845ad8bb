# SPDX-License-Identifier: Apache-2.0
#
# FakeServer: a session server that misbehaves to order.
#
# A process of its own speaks either mod_sessiond's frames (P G L W T U R S F D,
# or without locks P G W S F D) or plain sharedance's (S F D, everything else is
# closed in order) over a small table in memory. The test's hook sees each frame before it is executed and
# may send anything, reset, close or stall instead, or change the table as
# another client would. Every frame is told to the test afterwards, so that it
# can count round trips. What is hard: a reset must really be one (SO_LINGER
# {1,0}), and an orderly close must not turn into one (all input read first).
package FakeServer;
use v5.36;

use FakeLocks  ();
use File::Temp ();
use IO::Select ();
use IO::Socket::IP   ();
use IO::Socket::UNIX ();
use Socket qw(SOL_SOCKET SO_LINGER SOCK_STREAM AF_UNIX PF_UNSPEC MSG_NOSIGNAL);
use POSIX  ();

use constant ALL_ONES => ~0;

# speak:    'sessiond' or 'sharedance'
# features: of its hello; without "lock" it is an earlier mod_sessiond
# on:       'tcp', 'tcp6' or 'unix'
# lease:    seconds, after which a lock ends if somebody asks for it
# hook:     sub ($server, $frame), see _execute
sub start ($class, %arg) {
    my $self = bless { speak => 'sessiond', features => 'fence lock', on => 'tcp', lease => undef, hook => sub { }, %arg }, $class;
    my $listener = $self->_listen;
    socketpair my $ours, my $theirs, AF_UNIX, SOCK_STREAM, PF_UNSPEC or die "socketpair: $!\n";
    my $pid = fork // die "fork: $!\n";
    if ($pid == 0) {
        close $ours;
        $SIG{$_} = 'DEFAULT' for qw(INT TERM HUP);
        $SIG{PIPE} = $SIG{CHLD} = 'IGNORE';
        my $ok = eval { $self->_serve($listener, $theirs); 1 };
        print STDERR "# fake server: $@" unless $ok;
        POSIX::_exit($ok ? 0 : 1);
    }
    close $theirs;
    close $listener;
    @$self{qw(pid control owner)} = ($pid, $ours, $$);
    return $self;
}

sub _listen ($self) {
    if ($self->{on} eq 'unix') {
        $self->{dir}  = File::Temp->newdir('sessiond-XXXXXX', DIR => '/tmp');
        $self->{path} = "$self->{dir}/s";
        return IO::Socket::UNIX->new(Local => $self->{path}, Listen => 128) // die "$self->{path}: $!\n";
    }
    my $host     = $self->{on} eq 'tcp6' ? '::1' : '127.0.0.1';
    my $listener = IO::Socket::IP->new(LocalHost => $host, LocalPort => 0, Listen => 128, Type => SOCK_STREAM)
        // die "listen on $host: $@\n";
    @$self{qw(host port)} = ($host, $listener->sockport);
    return $listener;
}

sub dsn ($self, $options = '') {
    return "unix://$self->{path}$options" if $self->{on} eq 'unix';
    my $host = $self->{on} eq 'tcp6' ? '[::1]' : $self->{host};
    return "tcp://$host:$self->{port}$options";
}

sub _ask ($self, $word, @values) {
    my $line = join(' ', $word, map { unpack 'H*', $_ } @values) . "\n";
    syswrite $self->{control}, $line;
    my $answer = readline $self->{control};
    defined $answer or die "the fake server is gone\n";
    chomp $answer;
    return $answer;
}

# The table, as the test sees it.
sub put ($self, $key, $data) { $self->_ask('put', $key, $data); return $self }
sub remove ($self, $key) { $self->_ask('remove', $key); return $self }

sub value ($self, $key) {
    my $answer = $self->_ask('value', $key);
    return $answer eq '-' ? undef : pack 'H*', substr $answer, 1;
}

sub version ($self, $key) { return $self->_ask('version', $key) }
sub ttl ($self, $key) { return $self->_ask('ttl', $key) }

# Keys of all sessions.
sub keys ($self) { return map { pack 'H*', $_ } split / /, $self->_ask('keys') }

# The keys that are locked, and how many requests wait for one.
sub held ($self)    { return split / /, $self->_ask('held') }
sub waiting ($self) { return $self->_ask('waiting') }

# As at the end of a lease: whoever has the lock has it no more.
sub end_lease ($self, $key) { $self->_ask('lease', $key); return $self }

# As after kill -9 of the session process: all connections are reset, all locks
# are gone, the values stay.
sub lose ($self) { $self->_ask('lose'); return $self }

# The connections that are open, by their numbers.
sub open_connections ($self) { return split / /, $self->_ask('open') }

# The frames since the last call: "connection:type", such as "1:P 1:G 1:W".
sub frames ($self) { return $self->_ask('frames') }

sub types ($self) { return join '', $self->frames =~ /:(\w)/g }

# Whether to ask the hook from now on.
sub hook_on ($self)  { $self->_ask('hook', '1'); return $self }
sub hook_off ($self) { $self->_ask('hook', '0'); return $self }

sub stop ($self) {
    my $pid = delete $self->{pid} or return;
    # A word, not just the end of the channel: servers that were started later
    # have inherited our end of it.
    syswrite $self->{control}, "quit\n";
    close $self->{control};
    waitpid $pid, 0;
    return $? == 0;
}

sub DESTROY ($self) {
    local $?;
    $self->stop if $self->{owner} && $self->{owner} == $$;
    return;
}

# --- the server's process ---------------------------------------------------

sub _serve ($self, $listener, $control) {
    @$self{qw(items counter connections log hooking)} = ({}, 0, 0, [], 1);
    $self->{select} = IO::Select->new($listener, $control);
    $self->{locks} = FakeLocks->new(
        lease   => $self->{lease},
        granted => sub ($connection, $key) { push @{ $self->{woken} }, [ $connection, $self->_value($key) ] },
        refused => sub ($connection, $key) { push @{ $self->{woken} }, [ $connection, reply('B') ] },
    );
    my %by_socket;
    $self->{by_socket} = \%by_socket;
    while (1) {
        my $pause = $self->{locks}->tick;
        $self->_wake;
        for my $socket ($self->{select}->can_read($pause)) {
            if ($socket == $listener) {
                my $client = $listener->accept or next;
                $by_socket{$client} = { socket => $client, number => ++$self->{connections}, input => '', frames => 0 };
                $self->{select}->add($client);
            }
            elsif ($socket == $control) {
                my $line = readline($control) // 'quit';
                chomp $line;
                return $self->_end_slow if $line eq 'quit';
                syswrite $control, $self->_controlled($line) . "\n";
            }
            else {
                my $connection = $by_socket{$socket} or next;
                $self->_read($connection);
            }
        }
    }
}

sub _controlled ($self, $line) {
    my ($word, @values) = split / /, $line;
    @values = map { pack 'H*', $_ } @values;
    if ($word eq 'put')       { $self->set(@values, $values[1] // '') }
    elsif ($word eq 'remove') { $self->unset($values[0]) }
    elsif ($word eq 'value') {
        my $item = $self->{items}{ $values[0] };
        return $item ? '=' . unpack 'H*', $item->{data} : '-';
    }
    elsif ($word eq 'version') { return $self->{items}{ $values[0] }{version} // 0 }
    elsif ($word eq 'ttl')     { return $self->{items}{ $values[0] }{ttl} // '' }
    elsif ($word eq 'keys')    { return join ' ', map { unpack 'H*', $_ } sort CORE::keys %{ $self->{items} } }
    elsif ($word eq 'hook')    { $self->{hooking} = $values[0] }
    elsif ($word eq 'held')    { return join ' ', $self->{locks}->held }
    elsif ($word eq 'waiting') { return $self->{locks}->waiting }
    elsif ($word eq 'open')    { return join ' ', sort { $a <=> $b } map { $_->{number} } values %{ $self->{by_socket} } }
    elsif ($word eq 'lease')   { $self->{locks}->release($values[0]) }
    elsif ($word eq 'lose')    { $self->lose_locks }
    elsif ($word eq 'frames') {
        my $log = join ' ', @{ $self->{log} };
        $self->{log} = [];
        return $log;
    }
    return 'done';
}

# For hooks too: what another client would have done.
sub set ($self, $key, $data = '', @) {
    $self->{items}{$key} = { version => ++$self->{counter}, data => $data };
    return;
}

sub unset ($self, $key) { delete $self->{items}{$key}; return }

sub lose_locks ($self) {
    $self->{locks}->lose_all;
    $self->_reset($_) for values %{ $self->{by_socket} };
    return;
}

# Somebody else holds the lock from now on, as after the end of a lease.
sub take_lock ($self, $key) {
    my $stranger = { number => 0 };
    $self->{locks}->release($key);
    $self->{locks}->ask($stranger, $key, 0);
    return;
}

sub free_lock ($self, $key) { $self->{locks}->release($key); return }

# Who waited for a lock gets its answer, and what it sent meanwhile is read.
sub _wake ($self) {
    while (my $woken = shift @{ $self->{woken} // [] }) {
        my ($connection, $reply) = @$woken;
        next unless $connection->{socket};
        $connection->{parked} = 0;
        _send_all($connection->{socket}, $reply);
        $self->_go_on($connection);
    }
    return;
}

sub _read ($self, $connection) {
    my $got = sysread $connection->{socket}, $connection->{input}, 262_144, length $connection->{input};
    return $self->_drop($connection) unless $got;
    return $self->_go_on($connection);
}

sub _go_on ($self, $connection) {
    while ($connection->{socket} && !$connection->{stalled} && !$connection->{parked}) {
        my ($frame, $length) = _parse($connection->{input});
        last unless $frame;
        substr $connection->{input}, 0, $length, '';
        @$frame{qw(connection first)} = ($connection, !$connection->{frames}++);
        push @{ $self->{log} }, "$connection->{number}:$frame->{type}";
        $self->_execute($frame);
    }
    return;
}

# (frame, its length), or nothing while it is incomplete. What is no frame is a
# frame of type X, all there is.
sub _parse ($input) {
    my $type = substr $input, 0, 1;
    my %head = (P => 9, G => 5, F => 5, D => 5, S => 9, W => 21, L => 9, T => 9, U => 5, R => 5);
    return if $type eq '';
    my $head = $head{$type} // return ({ type => 'X' }, length $input);
    return if length $input < $head;
    return ({ type => 'P', nonce => substr $input, 1, 8 }, 9) if $type eq 'P';
    my ($key_length, $data_length) = unpack 'N N', substr $input, 1, $head - 1;
    $data_length = 0 unless $type =~ /[SW]/;
    my $length = $head + $key_length + $data_length;
    return if length $input < $length;
    my %frame = (
        type => $type, key => substr($input, $head, $key_length),
        data => substr($input, $head + $key_length, $data_length)
    );
    @frame{qw(ttl version)} = unpack 'x9 N Q>', $input if $type eq 'W';
    $frame{wait_ms} = unpack 'x5 N', $input if $type eq 'L';
    $frame{ttl}     = unpack 'x5 N', $input if $type eq 'T';
    return (\%frame, $length);
}

# The hook returns nothing to let the frame be executed, else [what, bytes]:
# the bytes are sent (if any), and then
#   keep   the connection goes on      close    an orderly end
#   reset  a reset                     stall    nothing more, ever
#   deaf   nothing more is even read   dribble  the bytes, 20 a second
#   sip    input is read and thrown away, 4 KB 20 times a second
sub _execute ($self, $frame) {
    my $order = $self->{hooking} ? $self->{hook}->($self, $frame) : undef;
    my ($then, $reply) = ref $order ? @$order : ('keep', $self->_reply($frame));
    if (!defined $reply && !ref $order) { $then = 'close' }
    elsif (!ref $order && $frame->{type} =~ /[SFD]/) { $then = 'close' }
    my $connection = $frame->{connection};
    return $self->_slowly($connection, $reply) if $then eq 'dribble';
    _send_all($connection->{socket}, $reply) if defined $reply && $reply ne '';
    return $self->_slowly($connection) if $then eq 'sip';
    $self->{select}->remove($connection->{socket}) if $then eq 'deaf';
    if ($then eq 'stall')    { $connection->{stalled} = 1 }
    elsif ($then eq 'close') { $self->_drop($connection) }
    elsif ($then eq 'reset') { $self->_reset($connection) }
    return;
}

sub _reset ($self, $connection) {
    my $socket = $connection->{socket} or return;
    setsockopt $socket, SOL_SOCKET, SO_LINGER, pack 'ii', 1, 0;
    return $self->_drop($connection);
}

# A process of its own talks to this client until the client has had enough.
sub _slowly ($self, $connection, $bytes = undef) {
    my $pid = fork // die "fork: $!\n";
    if ($pid == 0) {
        my $socket = $connection->{socket};
        $_ == $socket or close $_ for $self->{select}->handles;
        while (defined $bytes ? $bytes ne '' : 1) {
            my $done = defined $bytes ? send($socket, substr($bytes, 0, 1, ''), MSG_NOSIGNAL) : sysread $socket, my $sip, 4096;
            last unless $done;
            select undef, undef, undef, 0.05;
        }
        POSIX::_exit(0);
    }
    push @{ $self->{slow} }, $pid;
    return $self->_drop($connection);
}

# A client that has gone without a word keeps such a process for ever.
sub _end_slow ($self) {
    for my $pid (@{ $self->{slow} // [] }) {
        kill KILL => $pid;
        waitpid $pid, 0;
    }
    return;
}

sub _send_all ($socket, $bytes) {
    my $sent = 0;
    while ($sent < length $bytes) {
        my $now = send $socket, substr($bytes, $sent), MSG_NOSIGNAL;
        return unless defined $now;
        $sent += $now;
    }
    return;
}

sub _drop ($self, $connection) {
    my $socket = delete $connection->{socket} or return;
    $self->{select}->remove($socket);
    delete $self->{by_socket}{$socket};
    close $socket;
    $self->{locks}->forget($connection);
    return;
}

# The reply of a well-behaved server; undef is an orderly close without a byte.
sub _reply ($self, $frame) {
    my ($type, $key) = @$frame{qw(type key)};
    my $item = defined $key ? $self->{items}{$key} : undef;
    if ($type eq 'S') {
        $self->set($key, $frame->{data});
        return "OK\n";
    }
    if ($type eq 'F') { return $item && $item->{data} ne '' ? $item->{data} : undef }
    if ($type eq 'D') { return delete $self->{items}{$key} ? "OK\n" : undef }
    return undef if $self->{speak} ne 'sessiond';
    my ($locks, $connection) = ($self->{locks}, $frame->{connection});
    if ($type eq 'P') {
        $locks->forget($connection);
        return reply('K', "$frame->{nonce}mod_sessiond/0.1 $self->{features}");
    }
    if ($type eq 'G') { return $self->_value($key) }
    my $holder = $locks->holder($key) // 0;
    my $mine   = $holder == $connection;
    if ($type eq 'W') {
        my $is = $item ? $item->{version} : 0;
        return reply('B') if $holder && !$mine;
        return reply('B') if !$mine && $frame->{version} != ALL_ONES && $frame->{version} != $is;
        $self->set($key, $frame->{data});
        $self->{items}{$key}{ttl} = $frame->{ttl};
        my $version = $self->{counter};
        $locks->release($key, $connection);
        return reply('K', pack 'Q>', $version);
    }
    if ($type !~ /[LTUR]/ || $self->{features} !~ /\block\b/) {
        _send_all($connection->{socket}, reply('E', 'unknown frame'));
        return undef;
    }
    if ($type eq 'L') {
        my $granted = $locks->ask($connection, $key, $frame->{wait_ms}) // return reply('B');
        return $self->_value($key) if $granted;
        $connection->{parked} = 1;
        return '';
    }
    if ($type eq 'U') { return reply($locks->release($key, $connection) ? 'K' : 'N') }
    if ($type eq 'T') {
        $item->{ttl} = $frame->{ttl} if $item;
        $locks->release($key, $connection) if $item;
        return reply($item ? 'K' : 'N');
    }
    return reply('B') if $holder && !$mine;
    delete $self->{items}{$key};
    $locks->release($key, $connection);
    return reply($item ? 'K' : 'N');
}

sub _value ($self, $key) {
    my $item = $self->{items}{$key};
    return $item ? value_reply(@$item{qw(version data)}) : reply('N');
}

# For hooks: the bytes of a reply frame.
sub reply ($type, $body = '') { return pack('a1 N', $type, length $body) . $body }
sub value_reply ($version, $data) { return reply('V', pack('Q>', $version) . $data) }

1;
