# SPDX-License-Identifier: Apache-2.0
#
# Sessiond::Test::Load: many client processes, and a ledger of what the server
# has acknowledged.
#
# A key is written once, since a reused key hides a loss: the later store would
# cover it. A line enters a client's ledger only after "OK" or a K frame came
# whole, so what is in the ledgers is exactly what may not be lost, and verify()
# asks for all of it. Every value names its key and version and ends in a
# checksum: two halves of different stores never pass for one.
#
# A machine of two cores runs 64 clients and the server. So a client is a plain
# loop over blocking sockets, ledgers are buffered (a client is asked to stop,
# never killed), and a rate keeps the load from filling the store.
package Sessiond::Test::Load;
use v5.36;

use Digest::MD5 qw(md5_hex);
use File::Temp  qw(tempdir);
use File::Path  qw(remove_tree);
use POSIX       ();
use Time::HiRes ();
use Sessiond::Test::Net    qw(now nap http_request is_alive);
use Sessiond::Test::Client qw(frame_get ANY_VERSION);

use Exporter qw(import);
our @EXPORT_OK = qw(make_value check_value);

my @SIZES = (60, 200, 400, 600, 600, 900, 1500, 2500, 6000);    # about log-normal, mean 1.4 KB
my $TIMING = 'd d a8';                                          # begin, seconds, what
my $run   = 0;                                                  # keys differ between runs of one process

# --- values that prove themselves -------------------------------------------

# A value of about this size: "key:version:length:filler:md5", the checksum
# over all before it. The filler differs between versions in every byte range.
sub make_value ($key, $version, $size) {
    my $head = "$key:$version:$size:";
    my $word = md5_hex($head);
    my $room = $size - length($head) - 33;
    my $body = $head . ($room > 0 ? substr($word x (1 + $room / 32), 0, $room) : '') . ':';
    return $body . md5_hex($body);
}

# The version of a whole value of this key, else undef.
sub check_value ($key, $value) {
    return undef if length $value < 33;
    my $body = substr $value, 0, -32;
    return undef if md5_hex($body) ne substr $value, -32;
    my ($named, $version) = $body =~ /^([^:]*):(\d+):/ or return undef;
    return $named eq $key ? $version : undef;
}

# --- the load ----------------------------------------------------------------

# addr:        where (see Sessiond::Test::Client)
# clients:     how many processes (64)
# seconds:     how long, or
# count:       how many requests each; without both until stop()
# fetches:     share of requests that fetch what this client has stored (0.5)
# extended:    share of clients that keep one connection and speak G and W (0)
# rate:        stores per second of all clients together; 0 is flat out
# sizes:       [bytes...] of the values, drawn evenly
# live:        sessions of each client that are written again and again (0);
# updates:     the share of its stores that do so (0.5). Such a store is counted
#              apart: updated, or update_... with the outcome
# timings:     true: notes how long each request took, for timings()
# http:        [port, path] of a page to load beside it by http_clients processes (2)
# work:        code to run in place of the above, by each client process until
#              its end: work($client, $number, $result, $is_over); it counts in
#              the hash $result, whose sums are in the summary
# timeout:     of a request (30 s)
sub new ($class, %arg) {
    my $self = bless {
        clients => 64, fetches => 0.5, extended => 0, rate => 2000, http_clients => 2, timeout => 30,
        sizes => \@SIZES, live => 0, updates => 0.5, timings => 0,
        seconds => undef, count => undef, http => undef, work => undef, %arg,
        dir => tempdir('sessiond-load-XXXXXX', TMPDIR => 1), owner => $$, run => ++$run . "x$$", pids => {},
    }, $class;
    return $self;
}

sub start ($self) {
    for my $i (1 .. $self->{clients}) {
        $self->_spawn("client$i", sub ($result, $is_over) { $self->_client($i, $result, $is_over) });
    }
    for my $i (1 .. ($self->{http} ? $self->{http_clients} : 0)) {
        $self->_spawn("http$i", sub ($result, $is_over) { $self->_http_client($result, $is_over) });
    }
    return $self;
}

sub _spawn ($self, $name, $code) {
    my $pid = fork // die "fork: $!\n";
    if ($pid) {
        $self->{pids}{$pid} = $name;
        return;
    }
    # A client leaves by _exit: the test's END blocks are not its own.
    my $over = 0;
    $SIG{TERM} = sub { $over = 1 };
    $SIG{INT}  = 'IGNORE';
    my $parent = $self->{owner};
    my $until  = defined $self->{seconds} ? now() + $self->{seconds} : undef;
    my %result;
    my $ok = eval {
        $self->_note_times($name) if $self->{timings};
        $code->(\%result, sub { return $over || (defined $until && now() > $until) || getppid != $parent });
        1;
    };
    $result{died} = $@ =~ s/\s+/ /gr unless $ok;
    if (open my $fh, '>', "$self->{dir}/$name.result") {
        print {$fh} "$_ $result{$_}\n" for sort keys %result;
        CORE::close($fh);
    }
    CORE::close($self->{times}) if $self->{times};
    POSIX::_exit($ok ? 0 : 1);
}

# Notes when the last request was acknowledged; the longest time without one
# is what a user would have waited through.
sub _note_gap ($result, $last) {
    my $now = now();
    $result->{longest_gap} = $now - $$last if $now - $$last > ($result->{longest_gap} // 0);
    $$last = $now;
    return;
}

# --- how long requests took -------------------------------------------------

sub _note_times ($self, $name) {
    open $self->{times}, '>:raw', "$self->{dir}/$name.times" or die "times: $!\n";
    $self->{times}->autoflush(1);
    return;
}

# Of a request that was begun then and is over now; work calls it for its own.
sub note_time ($self, $what, $begin) {
    print { $self->{times} } pack $TIMING, $begin, now() - $begin, $what if $self->{times};
    return;
}

# All requests of the kinds that match (store, update, fetch, page, work's own) as
# [begin by now(), seconds], client by client.
sub timed ($self, $kinds) {
    my ($size, @requests) = (length pack $TIMING, 0, 0, '');
    for my $file (glob "$self->{dir}/*.times") {
        open my $fh, '<:raw', $file or die "$file: $!\n";
        while (read($fh, my $bytes, $size) == $size) {
            my ($begin, $seconds, $what) = unpack $TIMING, $bytes;
            push @requests, [$begin, $seconds] if $what =~ /^$kinds/;
        }
    }
    return @requests;
}

# The seconds that requests took which began in a window, sorted: by now() as of
# $from and until $to.
sub timings ($self, $kinds, $from, $to) {
    return sort { $a <=> $b } map { $_->[1] } grep { $_->[0] >= $from && $_->[0] < $to } $self->timed($kinds);
}

# --- one client --------------------------------------------------------------

sub _client ($self, $i, $result, $is_over) {
    my $client = Sessiond::Test::Client->new($self->{addr}, timeout => $self->{timeout});
    srand $i * 7919 + $$;
    return $self->{work}->($client, $i, $result, $is_over) if $self->{work};
    my $extended = $i <= $self->{clients} * $self->{extended};
    my $store = $extended ? \&_store_extended : \&_store_once;
    my $fetch = $extended ? \&_fetch_extended : \&_fetch_once;
    my $pause = $self->{rate} ? $self->{clients} / $self->{rate} : 0;
    open my $ledger, '>>', "$self->{dir}/client$i.ledger" or die "ledger: $!\n";
    my ($last, $next) = (now(), now() + rand $pause);
    my ($asked, $n, @mine) = (0, 0);
    my @live = map { { key => "live-$self->{run}-$i-$_", versions => [] } } 1 .. $self->{live};

    until ($is_over->() || defined $self->{count} && $asked >= $self->{count}) {
        $asked++;
        if (@mine && rand() < $self->{fetches}) {
            my ($key, $version) = @{ $mine[rand @mine] };
            my $begin = now();
            my ($outcome, $value) = $fetch->($client, $key);
            $self->note_time('fetch', $begin);
            if ($outcome eq 'ok') {
                my $found = check_value($key, $value) // -1;
                $result->{ $found == $version ? 'fetched' : 'wrong' }++;
                _note_gap($result, \$last);
            }
            else { _note_failure($result, $outcome eq 'no' ? 'missed' : $outcome) }
        }
        else {
            my $again = @live && rand() < $self->{updates} ? $live[rand @live] : undef;
            my $key   = $again ? $again->{key} : "load-$self->{run}-$i-" . ++$n;
            my $version = $again ? ++$again->{written} : $n;
            my $value = make_value($key, $version, $self->{sizes}[rand @{ $self->{sizes} }]);
            my $begin = now();
            my $outcome = $store->($client, $key, $value, defined $again);
            $self->note_time($again ? 'update' : 'store', $begin);
            _note_gap($result, \$last) if $outcome eq 'ok';
            if ($again) { _note_update($result, $again, $outcome) }
            elsif ($outcome eq 'ok') {
                printf {$ledger} "%s %s %d\n", $key, substr($value, -32), $n;
                $result->{stored}++;
                push @mine, [$key, $n];
                shift @mine if @mine > 200;
            }
            else { _note_failure($result, $outcome eq 'no' ? 'denied' : $outcome) }
            if ($pause) {
                $next += $pause;
                my $left = $next - now();
                if    ($left > 0)  { nap($left) }
                elsif ($left < -1) { $next = now() }      # do not make up for a stall in one burst
            }
        }
    }
    for my $session (grep { $_->{acknowledged} } @live) {
        printf {$ledger} "%s - %s\n", $session->{key}, join ',', @{ $session->{versions} };
        $result->{live}++;
    }
    CORE::close($ledger) or die "ledger: $!\n";
    return;
}

# A session that is written again may hold what was acknowledged last, or any
# version after it whose store got no answer.
sub _note_update ($result, $session, $outcome) {
    if ($outcome eq 'ok') {
        $session->{acknowledged} = 1;
        $session->{versions} = [$session->{written}];
        $result->{updated}++;
        return;
    }
    push @{ $session->{versions} }, $session->{written};
    # Before the first acknowledgement it is a new session like others.
    return _note_failure($result, $outcome eq 'no' ? 'denied' : $outcome) unless $session->{acknowledged};
    return _note_failure($result, "update_$outcome");
}

# A client that fails at once takes a breath, or it would only count how fast
# it can fail.
sub _note_failure ($result, $outcome) {
    $result->{ _kind($outcome) }++;
    nap(0.002);
    return;
}

# Outcomes of their own; all others are told by name, since there should be none.
sub _kind ($outcome) { return $outcome =~ s/\W+/_/gr }

sub _store_once ($client, $key, $value, $again) { return $client->store($key, $value) }
sub _fetch_once ($client, $key)         { return $client->fetch($key) }

sub _store_extended ($client, $key, $value, $again) {
    my ($outcome, $reply) = $client->write($key, $value, 0, $again ? ANY_VERSION : 0);
    return $outcome eq 'ok' ? ($reply->{type} eq 'K' ? 'ok' : "reply $reply->{type}") : _cut($outcome);
}

sub _fetch_extended ($client, $key) {
    my ($outcome, $reply) = $client->get($key);
    return (_cut($outcome), '') if $outcome ne 'ok';
    return $reply->{type} eq 'V' ? ('ok', $reply->{data})
        : ($reply->{type} eq 'N' ? 'no' : "reply $reply->{type}", '');
}

# On a persistent connection any end is no answer. Counted apart: a restart may
# cut connections that stay, but has time to finish a request of its own.
sub _cut ($outcome) { return $outcome =~ /^(?:no|partial|reset)$/ ? 'cut' : $outcome }

sub _http_client ($self, $result, $is_over) {
    my ($port, $path) = @{ $self->{http} };
    until ($is_over->()) {
        my $begin = now();
        my ($status, $why) = http_request($port, $path);
        my $took = now() - $begin;
        $self->note_time('page', $begin);
        if ($status == 200) { $result->{http_ok}++ }
        else {
            $result->{http_failed}++;
            $result->{http_refused}++ if $status == 0 && $why =~ /^connect.*refused/i;
            $result->{"http_why_" . _kind($status || $why)}++;
        }
        $result->{longest_http} = $took if $took > ($result->{longest_http} // 0);
        nap(0.005);
    }
    return;
}

# Asks all clients to end and waits for them.
sub stop ($self) {
    kill TERM => keys %{ $self->{pids} };
    return $self->wait;
}

# Waits for the end by time or count; returns the summary.
sub wait ($self) {
    my $until = now() + $self->{timeout} + ($self->{seconds} // 0) + 120;
    while (%{ $self->{pids} }) {
        my $pid = waitpid -1, POSIX::WNOHANG();
        if ($pid > 0) { delete $self->{pids}{$pid} }
        elsif ($pid < 0) { last }
        elsif (now() > $until) {
            kill KILL => keys %{ $self->{pids} };
            $self->{stuck} = keys %{ $self->{pids} };
            $until += 60;
        }
        else { nap(0.01) }
    }
    return $self->summary;
}

my @COUNTED = qw(stored updated live fetched missed wrong denied refused reset cut timeout);

# A hash of counts over all clients: stored (write-once), updated (stores of
# sessions that were there), live (how many of those there are), fetched (right), missed (fetch of
# an acknowledged key said no), wrong (not what was stored), denied (a store
# got an orderly end), refused, reset (of a one-shot request), cut (the end of a
# persistent connection in the middle of a call), timeout; longest_gap in seconds;
# http_ok, http_failed, http_refused, longest_http; other: what else there was.
sub summary ($self) {
    return $self->{summary} if $self->{summary} || %{ $self->{pids} };
    my %sum = map { $_ => 0 } @COUNTED, qw(longest_gap http_ok http_failed http_refused longest_http);
    $sum{other} = {};
    for my $file (glob "$self->{dir}/*.result") {
        open my $fh, '<', $file or next;
        while (my $line = readline $fh) {
            my ($name, $value) = $line =~ /^(\S+) (.*)$/ or next;
            if    ($name =~ /^longest/) { $sum{$name} = $value if $value > $sum{$name} }
            elsif (exists $sum{$name})  { $sum{$name} += $value }
            else { $sum{other}{$name} = $value =~ /^\d+$/ ? ($sum{other}{$name} // 0) + $value : $value }
        }
    }
    $sum{other}{stuck} = $self->{stuck} if $self->{stuck};
    return $self->{summary} = \%sum;
}

sub describe ($self) {
    my $sum  = $self->summary;
    my $text = join ', ', map { "$_ $sum->{$_}" } grep { $sum->{$_} || /^(?:stored|fetched|reset|cut)$/ } @COUNTED;
    $text .= sprintf ', longest gap %.2f s', $sum->{longest_gap};
    $text .= sprintf '; HTTP ok %d, failed %d, slowest %.2f s', @$sum{qw(http_ok http_failed longest_http)}
        if $self->{http};
    my @other = map { "$_ $sum->{other}{$_}" } grep { !/^http_why/ || $sum->{http_failed} } sort keys %{ $sum->{other} };
    return @other ? "$text; also: @other" : $text;
}

# --- what became of it ---------------------------------------------------------

# Asks for every acknowledged key and compares. Returns { asked, lost, wrong,
# examples, unanswered, blocks }; blocks is what the sessions found take of the
# store. Pipelined, by a few processes.
sub verify ($self, %opt) {
    my @files = glob "$self->{dir}/*.ledger";
    my $procs = $opt{processes} // 4;
    my @pipes;
    for my $p (0 .. $procs - 1) {
        my $pid = open my $fh, '-|';
        die "fork: $!\n" unless defined $pid;
        if ($pid == 0) {
            my $found = eval { $self->_verify_files(map { $files[$_] } grep { $_ % $procs == $p } 0 .. $#files) }
                // { unanswered => 1, examples => [ $@ =~ s/\s+/ /gr ] };
            my $text = join '', (map { "$_ $found->{$_}\n" } grep { $_ ne 'examples' } keys %$found),
                map { "example $_\n" } @{ $found->{examples} };
            syswrite STDOUT, $text;
            POSIX::_exit(0);
        }
        push @pipes, $fh;
    }
    my %sum = (asked => 0, lost => 0, wrong => 0, unanswered => 0, blocks => 0, examples => []);
    for my $fh (@pipes) {
        my $lines = 0;
        while (my $line = readline $fh) {
            $lines++;
            chomp $line;
            my ($name, $value) = split / /, $line, 2;
            if   ($name eq 'example') { push @{ $sum{examples} }, $value if @{ $sum{examples} } < 10 }
            else                      { $sum{$name} += $value }
        }
        $sum{unanswered}++ unless $lines;
        CORE::close($fh);
    }
    return \%sum;
}

sub _verify_files ($self, @files) {
    my %found  = (asked => 0, lost => 0, wrong => 0, unanswered => 0, blocks => 0, examples => []);
    my $client = Sessiond::Test::Client->new($self->{addr}, timeout => $self->{timeout});
    for my $file (@files) {
        open my $fh, '<', $file or die "$file: $!\n";
        chomp(my @lines = readline $fh);
        while (my @batch = splice @lines, 0, 40) {
            my @wanted = map { [split / /] } @batch;
            my ($outcome, @replies) = $client->call(map { frame_get($_->[0]) } @wanted);
            $found{asked} += @wanted;
            for my $i (0 .. $#wanted) {
                my ($key, $sum, $versions) = @{ $wanted[$i] };
                my $reply = $replies[$i];
                my $is = $reply && $reply->{type} eq 'V' ? check_value($key, $reply->{data}) // -1 : -1;
                my $is_right = ($sum eq '-' || $is >= 0 && substr($reply->{data}, -32) eq $sum)
                    && grep { $is == $_ } split /,/, $versions;
                $found{blocks} += _blocks($key, $reply->{data}) if $is_right;
                my $kind = !$reply ? 'unanswered' : $reply->{type} eq 'N' ? 'lost' : !$is_right ? 'wrong' : next;
                $found{$kind}++;
                push @{ $found{examples} }, "$kind: $key" . ($kind eq 'unanswered' ? " ($outcome)" : '')
                    if @{ $found{examples} } < 5;
            }
        }
    }
    return \%found;
}

# How many blocks of 256 bytes a session takes, 40 bytes of head included.
sub _blocks ($key, $value) { return int((40 + length($key) + length($value) + 255) / 256) }

sub DESTROY ($self) {
    return if $self->{owner} != $$;
    local ($?, $!);
    kill KILL => keys %{ $self->{pids} };
    waitpid $_, 0 for keys %{ $self->{pids} };
    remove_tree($self->{dir}, { error => \my $ignored });
    return;
}

1;
