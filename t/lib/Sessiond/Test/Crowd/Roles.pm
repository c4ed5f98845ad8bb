# SPDX-License-Identifier: Apache-2.0
#
# Sessiond::Test::Crowd::Roles: what the members of a crowd do, as lists of
# steps for Sessiond::Test::Crowd::Loop, and what their answers must be.
#
# Each member has keys of its own, so it knows what is there: the number of the
# value that it stored last, and the version that the server gave it. A write
# names the version that it follows, and a get must bring exactly the version of
# the last K: a request that is executed twice does not go unnoticed. After a
# failure the member does not know, and begins anew with a write that asks for
# no version.
#
# No two places of a value look alike, so that bytes that were left out, sent
# twice or moved are seen, also by multiples of a block.
package Sessiond::Test::Crowd::Roles;
use v5.36;

use Digest::MD5 qw(md5_hex);
use Sessiond::Test::Client qw(frame_store frame_fetch frame_hello frame_get frame_write ANY_VERSION);
use Sessiond::Test::Crowd::Loop ();

my $KB = 1024;
my $base = '';      # numbers of four bytes, no two the same, as many as were needed so far

# A kernel may take some megabytes off the server's hands at once (the last number
# of tcp_wmem, 4 MB), whatever the client's buffer. Only a value that is longer
# by far than what was read of it and that makes the server wait for certain.
my $LONG = 6 * $KB * $KB;

our %ROLES = (
    idle              => \&_idle,
    storer            => \&_storer,
    one_shot_storer   => \&_one_shot_storer,
    reader            => \&_reader,
    replaced_reader   => \&_replaced_reader,
    long_reader       => \&_long_reader,
    pipeliner         => \&_pipeliner,
);
# The buffers and segments of those who are to take little: [SO_RCVBUF, TCP_MAXSEG].
# The send buffer of the other end grows by the segments that are agreed on.
our %NARROW = (
    reader          => [16 * $KB, 536],
    replaced_reader => [16 * $KB, 536],
    long_reader     => [64 * $KB, 4 * $KB],
);

# To be called before processes are forked: they share what is made here.
sub prepare (@roles) { value_of('', 0, $LONG + 10 * $KB) if grep { $_ eq 'long_reader' } @roles; return }

# The value of this key, number and size.
sub value_of ($key, $number, $size) {
    while (length $base < $size) {
        my $from = length($base) / 4;
        $base .= pack 'N*', map { $_ * 2_654_435_761 & 0xffff_ffff } $from .. $from + 65_535;
    }
    my $head = "$key:$number:$size:";
    my $word = md5_hex($head);
    my $bytes = substr($base, 0, $size) ^. substr($word x (1 + $size / 32), 0, $size);
    substr $bytes, 0, length $head, $head if length $head <= $size;
    return $bytes;
}

# How bytes differ from what they should be; nothing when they don't.
sub _difference ($is, $key, $number, $size) {
    my $wanted = value_of($key, $number, $size);
    return if $is eq $wanted;
    my $same = length(($is ^. $wanted) =~ /\A(\0+)/ ? $1 : '');
    return sprintf '%d bytes in place of %d of %s:%d, the first that differs is %d; they begin %s',
        length $is, $size, $key, $number, $same, Sessiond::Test::Crowd::Loop::show($is);
}

sub _between ($low, $high) { return $low + rand($high - $low) }

# --- requests with their answers, as steps -----------------------------------

sub _unexpected ($wanted, $type, $body) {
    my $kind = $type eq 'N' ? 'lost' : $type eq 'E' || $type eq 'B' ? 'refusal' : 'wrong';
    return ($kind, "$type " . Sessiond::Test::Crowd::Loop::show($body) . " in place of $wanted");
}

# (bytes, answer step) of a hello.
sub _hello ($m) {
    my $nonce = pack 'N N', $m->{number}, ++$m->{hellos};
    return (frame_hello($nonce), [answer => 'Hellos', sub ($type, $body) {
        return if $type eq 'K' && length $body > 8 && substr($body, 0, 8) eq $nonce;
        return _unexpected('a hello with nonce ' . unpack('H*', $nonce), $type, $body);
    }]);
}

# (bytes, answer step) of a write. What is known of the key is only changed when
# the answer came, so that answers of requests before this one are checked by
# what was there for them.
sub _write ($m, $key, $size, $is_first_in_line = 1) {
    my $number = ++$m->{written}{$key};
    my $known  = $is_first_in_line ? ($m->{keys}{$key} // {})->{version} : undef;
    return (frame_write($key, value_of($key, $number, $size), 0, $known // ANY_VERSION), [answer => 'Writes', sub ($type, $body) {
        return _unexpected("the K of $key:$number", $type, $body) if $type ne 'K' || length $body != 8;
        my $version = unpack 'Q>', $body;
        my $before  = ($m->{keys}{$key} // {})->{version} // 0;
        return ('wrong', "version $version of $key:$number is not after $before") if $version <= $before;
        $m->{keys}{$key} = { number => $number, size => $size, version => $version };
        return;
    }]);
}

# (bytes, answer step) of a get that must bring what was written last, or this.
sub _get ($m, $key, $wanted = undef) {
    return (frame_get($key), [answer => 'GetHits', sub ($type, $body) {
        my $is = $wanted // $m->{keys}{$key};
        return _unexpected("the value $key:$is->{number}", $type, $body) if $type ne 'V' || length $body < 8;
        my $version = unpack 'Q>', $body;
        my $how = _difference(substr($body, 8), $key, @$is{qw(number size)});
        return ('wrong', $how) if $how;
        return ('wrong', "version $version of $key:$is->{number} in place of $is->{version}: written twice?")
            if $version != $is->{version};
        return;
    }]);
}

sub _fetch_check ($key, $wanted) {
    return [ending => 'FetchHits', sub ($bytes) {
        my $how = _difference($bytes, $key, @$wanted{qw(number size)}) // return;
        return ('lost', "no value of $key:$wanted->{number}") if $bytes eq '';
        my $whole = value_of($key, @$wanted{qw(number size)});
        return ('closed', "an orderly end within the value: $how") if index($whole, $bytes) == 0;
        return ('surplus', $how) if index($bytes, $whole) == 0;
        return ('wrong', $how);
    }];
}

# One request at once.
sub _ask ($bytes, $answer) { return ([send => $bytes, 1], $answer) }

# A new connection that has said hello.
sub _greet ($m, $name = 'main') { return ([open => $name], _ask(_hello($m))) }

# The begin of a member without a past: a connection, and a value that is known.
sub _begin ($m, $key, $size) {
    delete $m->{keys}{$key};
    $m->{fresh} = 0;
    return (_greet($m), _ask(_write($m, $key, $size)));
}

# A frame in pieces, with a long pause at one of the cuts, which lies within the
# head in a quarter of the cases and near the middle else.
sub _slowly ($frame, $head) {
    my $length = length $frame;
    my $long = rand() < 0.25 ? 1 + int rand($head - 1) : int _between(0.3 * $length, 0.7 * $length);
    my %pause = ($long => _between(0.2, 2));
    for (1 .. int rand 4) {
        my $cut = 1 + int rand((rand() < 0.3 ? $head : $length) - 1);
        $pause{$cut} //= rand 0.05;
    }
    my ($from, @steps) = (0);
    for my $cut (sort { $a <=> $b } keys %pause) {
        push @steps, [send => substr($frame, $from, $cut - $from), 0], [pause => $pause{$cut}];
        $from = $cut;
    }
    return (@steps, [send => substr($frame, $from), 1]);
}

# --- roles ------------------------------------------------------------------

sub _idle ($m) {
    my $key  = "$m->{key}-i";
    my $size = 60 + int rand 3000;
    return _begin($m, $key, $size) if $m->{fresh};
    return ([pause => _between(0.5, 3)], _ask(rand() < 0.5 ? _write($m, $key, $size) : _get($m, $key)));
}

sub _storer ($m) {
    my $key  = "$m->{key}-w";
    my $size = 50 * $KB + int rand 2000;
    return _begin($m, $key, $size) if $m->{fresh};
    my ($frame, $answer) = _write($m, $key, $size);
    return ([pause => rand 0.5], _slowly($frame, 21 + length $key), $answer, _ask(_get($m, $key)));
}

sub _one_shot_storer ($m) {
    my $key    = "$m->{key}-s";
    my $size   = 50 * $KB + int rand 2000;
    my $number = ++$m->{written}{$key};
    $m->{fresh} = 0;
    my $fetch = frame_fetch($key);
    return (
        [pause => rand 0.5], [open => 'store'],
        _slowly(frame_store($key, value_of($key, $number, $size)), 9 + length $key),
        [ending => 'Stores', sub ($bytes) {
            return if $bytes eq "OK\n";
            return ('closed', 'an orderly end without OK') if index("OK\n", $bytes) == 0;
            return (index($bytes, "OK\n") == 0 ? 'surplus' : 'wrong', 'no OK: ' . Sessiond::Test::Crowd::Loop::show($bytes));
        }],
        [open => 'fetch'], rand() < 0.3 ? _slowly($fetch, length $fetch) : [send => $fetch, 1],
        _fetch_check($key, { number => $number, size => $size }),
    );
}

# A part of a value that is being read, by G or by F; then what is in between,
# then the rest.
sub _read_slowly ($m, $key, $low, $high, @between) {
    my %wanted = %{ $m->{keys}{$key} };
    my ($name, @ask) = ('main', _ask(_get($m, $key, \%wanted)));
    if (rand() < 0.5) {
        $name = 'fetch';
        @ask  = ([open => $name], [send => frame_fetch($key), 1], _fetch_check($key, \%wanted));
    }
    my $rest = pop @ask;
    return ([use => 'main'], @ask, [part => int _between($low * $wanted{size}, $high * $wanted{size})], @between,
        [use => $name], $rest, [pause => _between(0.2, 1)]);
}

# A pause in which somebody else replaces what is being read.
sub _replacing_pause ($m, $key, $size) {
    return ([pause => _between(0.1, 1)], _greet($m, 'other'), _ask(_write($m, $key, $size)), [shut => 'other'],
        [pause => _between(0.1, 1)]);
}

sub _reader ($m) {
    my $key = "$m->{key}-r";
    return _begin($m, $key, 1024 * $KB + int rand 5000) if $m->{fresh};
    return _read_slowly($m, $key, 0.3, 0.7, [pause => _between(0.2, 2)]);
}

sub _replaced_reader ($m) {
    my $key  = "$m->{key}-o";
    my $size = 1024 * $KB + int rand 5000;
    return _begin($m, $key, $size) if $m->{fresh};
    return _read_slowly($m, $key, 0.3, 0.7, _replacing_pause($m, $key, $size));
}

sub _long_reader ($m) {
    my $key  = "$m->{key}-l";
    my $size = $LONG + int rand 5000;
    return _begin($m, $key, $size) if $m->{fresh};
    return _read_slowly($m, $key, 0.02, 0.2, rand() < 0.5 ? [pause => _between(0.2, 2)] : _replacing_pause($m, $key, $size));
}

# Twenty frames in one write.
sub _pipeliner ($m) {
    my @keys = map { "$m->{key}-p$_" } 1 .. 3;
    if ($m->{fresh}) {
        my @begin = _begin($m, $keys[0], 500);
        delete $m->{keys}{$_} for @keys;
        return (@begin, map { _ask(_write($m, $_, 60 + int rand 2000)) } @keys[1, 2]);
    }
    my ($frames, @answers, %in_line) = ('');
    for (1 .. 20) {
        my $key  = $keys[rand @keys];
        my $kind = rand 3;
        my ($frame, $answer) = $kind < 1 ? _hello($m) : $kind < 2 ? _get($m, $key)
            : _write($m, $key, 60 + int rand 2000, !$in_line{$key}++);
        $frames .= $frame;
        push @answers, $answer;
    }
    return ([send => $frames, 20], @answers, [pause => _between(0.1, 1)]);
}

1;
