#!/usr/bin/perl
# SPDX-License-Identifier: Apache-2.0
#
# A farm moves from a real sharedanced: clients store, fetch and delete there
# while sessiond-import follows, and in the end every live session is on the
# other side, with its value and the rest of its lifetime. sharedanced itself is
# no part of this project: SHAREDANCED names its program.
use v5.36;
use FindBin ();
use lib "$FindBin::Bin/../lib";
use Test::More;
use POSIX ();
use Sessiond::Test::Httpd  ();
use Sessiond::Test::Client qw(frame_get);
use Sessiond::Test::Import qw(run_import start_import finish_import new_directory);
use Sessiond::Test::Net    qw(now nap claim_port is_alive);

my $program = $ENV{SHAREDANCED};
plan skip_all => 'SHAREDANCED names no program of sharedance' unless defined $program && -x $program;
plan skip_all => 'sharedanced calls chroot(), which is for root' if $> != 0;

my $EXPIRATION = 40;
my $h = Sessiond::Test::Httpd->new(name => 'sharedanced', config => <<'END')->start;
SessiondListen 127.0.0.1:%PORT%
SessiondMemory 64M
END
my $server = '127.0.0.1:' . $h->port;
my $dir  = new_directory();
my $port = claim_port();
my $pid  = fork // die "fork: $!\n";
if ($pid == 0) {
    open STDIN, '<', '/dev/null';
    exec { $program } $program, '--ip=127.0.0.1', "--port=$port", "--directory=$dir", "--expiration=$EXPIRATION"
        or POSIX::_exit(127);
}
END { if ($pid && is_alive($pid)) { my $status = $?; kill TERM => $pid; waitpid $pid, 0; $? = $status } }
my $old = Sessiond::Test::Client->new($port);
$h->wait_for(sub { $old->store('first', 'value') eq 'ok' }, 60, 'sharedanced');

# Clients of the farm: each has sessions of its own, and tells at the end which
# it has, with the time of the last store: "key value time" or "key" for deleted.
my ($clients, $each) = (4, 60);
my @pipes;
for my $number (1 .. $clients) {
    my $child = open(my $pipe, '-|') // die "fork: $!\n";
    if (!$child) {
        my $client = Sessiond::Test::Client->new($port);
        my (%last, $failed);
        my $until = now() + 6;
        for (my $n = 0; now() < $until; $n++) {
            my $key = "client$number-" . int rand $each;
            if (rand() < 0.05 && $last{$key}) {
                $failed .= 'delete ' if $client->delete($key) ne 'ok';
                delete $last{$key};
            }
            else {
                my $value = "$key-$n-" . chr(97 + $n % 26) x (20 + int(rand 5000) + ($n % 97 == 0 ? 400_000 : 0));
                my $outcome = $client->store($key, $value);
                $failed .= "$outcome " if $outcome ne 'ok';
                $last{$key} = [$value, now()];
            }
            nap(0.002);
        }
        print "failed $failed\n" if $failed;
        printf "%s %s %.3f\n", $_, @{ $last{$_} } for sort keys %last;
        close STDOUT;
        POSIX::_exit(0);
    }
    push @pipes, $pipe;
}

nap(1);
my $run = start_import('--follow=1', '-e', $EXPIRATION, 'sharedance', $dir, $server);
my (%expected, @complaints);
for my $pipe (@pipes) {
    while (my $line = readline $pipe) {
        chomp $line;
        if ($line =~ /^failed/) { push @complaints, $line }
        else                    { my ($key, $value, $at) = split ' ', $line; $expected{$key} = [$value, $at] }
    }
    close $pipe;
}
is_deeply(\@complaints, [], 'the farm has not noticed');
my $passes = sub { my ($out) = Sessiond::Test::Import::so_far($run); return scalar(() = $out =~ /^pass /mg) };
my $before = $passes->();
$h->wait_for(sub { $passes->() >= $before + 2 }, 60, 'two passes');
kill INT => $run->{pid};
$run = finish_import($run);
is($run->{status}, 0, 'the import has followed to the end') or diag $run->{out}, $run->{err};
cmp_ok($run->{sum}{'brought up to date'}, '>', 0, "imported $run->{sum}{imported}, brought up to date $run->{sum}{'brought up to date'} times");

my $c = Sessiond::Test::Client->new($h->port);
my @keys = sort keys %expected;
sub found () {
    my ($outcome, @replies) = $c->call(map { frame_get($_) } @keys);
    die "get: $outcome\n" if $outcome ne 'ok';
    return map { $keys[$_] => $replies[$_]{type} eq 'V' ? $replies[$_]{data} : undef } 0 .. $#keys;
}
my %found = found();
cmp_ok(scalar @keys, '>', 150, scalar(@keys) . ' sessions live');
is_deeply([grep { ($found{$_} // '') ne $expected{$_}[0] } @keys], [], 'each is there, with the value of the last store');
my @late = grep { now() - $expected{$_}[1] > $EXPIRATION } @keys;
is_deeply(\@late, [], 'none of them has expired by now');

my $again = run_import('-e', $EXPIRATION, 'sharedance', $dir, $server);
is_deeply([$again->{status}, @{ $again->{sum} }{ 'imported' }], [0, 0], 'a second import finds nothing new') or diag $again->{out};

# The rest of each lifetime: none ends early, and all have ended soon after.
my (%ended, @early);
$h->wait_for(sub {
    my %now = found();
    for my $key (grep { !defined $now{$_} && !defined $ended{$_} } @keys) {
        $ended{$key} = now() - $expected{$key}[1];
        push @early, "$key after $ended{$key}" if $ended{$key} < $EXPIRATION - 0.1;
    }
    return keys %ended == @keys;
}, 120, 'the end of all sessions');
is_deeply(\@early, [], "no session has lost a moment of its $EXPIRATION seconds");
my @sorted = sort { $a <=> $b } values %ended;
cmp_ok($sorted[$#sorted / 2], '<', $EXPIRATION + 5, sprintf 'half of them ended within %.1f s of the last store', $sorted[$#sorted / 2]);

kill TERM => $pid;
waitpid $pid, 0;
is($h->check, 'clean', 'the store is clean');
$h->finish;
done_testing;
